"""Recordings of real calls: sound and words lie where the wire says, and outlive the gateway and the disk."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from tests.peers import audio, clicks, proc, rtp
from tests.peers.alignment import Alignment, align, watched
from tests.peers.audio import Samples
from tests.peers.caller import Caller, call
from tests.peers.clicks import Times
from tests.peers.denwa import Denwa, denwa
from tests.peers.scripted_worker import TONE_S, script, scripted_worker

FORMS = [("flac", 24_000), ("wav", 8_000), ("flac", 16_000)]
TRACK_S = 18.0
TOLERANCE_S = 0.01
NOISE = audio.noise(-20, 5.0, 8_000, seed=4)
TINY = {"kind": "moshi", "checkpoint": "random:tiny", "slots": 2}
GREETING = "Good morning, you have reached the front desk."


def _recorded(file_format: str = "flac", rate: int = 24_000, model: str = "echo", **more: Any) -> dict[str, Any]:
    """An agent whose calls are recorded."""
    return {"model": model, **more, "recording": {"enabled": True, "format": file_format, "sample_rate": rate}}


async def _record(gateway: Denwa, caller: Caller) -> dict[str, Any]:
    """The record of the caller's call, once there is one."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        for record in await gateway.get("/v1/records") or []:
            if record["sip_call_id"] == caller.call_id:
                return dict(record)
        await asyncio.sleep(0.1)
    raise AssertionError(f"the call is not recorded\n{gateway.tail()}")


def _sound(record: dict[str, Any]) -> tuple[Samples, int]:
    """What was recorded, ``int16 [N, 2]``, and its rate."""
    samples, rate = soundfile.read(record["recording"], dtype="int16")
    return samples, rate


def _text(record: dict[str, Any], name: str) -> str:
    """One of the call's files."""
    return Path(record[name]).read_text()


def _lines(record: dict[str, Any], speaker: str) -> list[dict[str, Any]]:
    """The words of a speaker in the JSON lines."""
    lines = [json.loads(line) for line in _text(record, "transcript").splitlines()]
    return [line for line in lines if line.get("speaker") == speaker and "text" in line]


# The channels of a recording.


async def _click(gateway: Denwa, agent: str, seed: int) -> tuple[Alignment, dict[str, Any], float]:
    """Call the echo with a click track: how its recording lies, its record, and for how long it was heard."""
    track, times = clicks.track(TRACK_S + 4, seed)
    async with call(gateway.server, agent, track) as caller, watched(gateway, caller) as watch:
        await asyncio.sleep(TRACK_S + 1)
    record = await _record(gateway, caller)
    return align(caller, times, Path(record["recording"]), watch, TRACK_S), record, len(caller.heard) * rtp.PACKET_S


async def test_the_channels_lie_as_the_wire_says(tmp_path: Path) -> None:
    """Both hold every click: the left when it left, the right earlier by the echo's time inside the line, ±10 ms.

    In every format, at the beginning of the call as at its end. What then remains of the latency on the wire is what
    PJSIP says of its jitter buffer: shown by the call that this machine has disturbed least.
    """
    agents = {f"{file_format}{rate}": _recorded(file_format, rate) for file_format, rate in FORMS}
    async with denwa(tmp_path, agents=agents) as gateway:
        found = await asyncio.gather(*[_click(gateway, agent, seed) for seed, agent in enumerate(agents)])
    buffers = []
    for (file_format, rate), (alignment, record, heard_s) in zip(FORMS, found, strict=True):
        info = soundfile.info(record["recording"])
        form = (info.format, info.subtype, info.samplerate, info.channels)
        assert form == (file_format.upper(), "PCM_16", rate, 2)
        assert abs(info.duration - heard_s) <= 0.25
        assert alignment.lost == 0, alignment
        assert alignment.not_echoed <= 2, (
            "a busy machine may leave a frame out of the line, which is no recording's fault"
        )
        assert np.nanmax(np.abs(alignment.left_off)) <= TOLERANCE_S, alignment.left_off
        off = alignment.offset_off
        assert np.abs([np.nanmedian(off[:7]), np.nanmedian(off[-7:])]).max() <= TOLERANCE_S, off
        assert np.mean(np.abs(off[~np.isnan(off)]) <= TOLERANCE_S) >= 0.9, off
        assert np.isnan(off).sum() <= 4, off
        assert np.nanmin(alignment.outside) > 0, alignment.outside
        buffers.append(abs(float(np.nanmean(alignment.outside)) - record["rtp"]["jitter_buffer_ms"] / 1000))
    assert min(buffers) <= 0.025, buffers
    assert min(alignment.not_echoed for alignment, _, _ in found) == 0


# Words and sound.


def _onsets(channel: Samples, rate: int) -> Times:
    """When sound begins after 30 ms of silence or more."""
    loud = np.flatnonzero(np.abs(channel) > 1_000) / rate
    return loud[np.diff(loud, prepend=-1.0) > 0.03]


async def test_words_lie_on_their_sound(tmp_path: Path) -> None:
    """Every word that a model says with a tone is written down where its tone begins in the recording, within 20 ms.

    In the JSON lines as in the file for training; also after the model has stalled, and the line has run dry.
    """
    async with scripted_worker() as url:
        models = {"scripted": {"kind": "moshi", "checkpoint": "random:tiny", "workers": [url]}}
        async with denwa(tmp_path, models=models, agents={"reader": _recorded(model="scripted")}) as gateway:
            async with call(gateway.server, "reader", NOISE) as caller:
                await asyncio.sleep(12)
            record = await _record(gateway, caller)
    assert record["rtp"]["underruns"], "the model did not stall"
    samples, rate = _sound(record)
    onsets = _onsets(samples[:, 0], rate)
    spoken = [line for line in _lines(record, "agent") if not line.get("cut")]
    written = "".join(line["text"] for line in spoken)
    assert "".join(script(1_000).values()).startswith(written)
    assert len(spoken) >= 20
    assert abs(len(onsets) - len(spoken)) <= 1, "a tone is no word, or a word has none"

    training = json.loads(_text(record, "words"))["alignments"]
    assert [word for word, _, _ in training] == written.split()
    assert {speaker for _, _, speaker in training} == {"SPEAKER_MAIN"}
    for starts in ([line["t"] for line in spoken], [start for _, (start, _), _ in training]):
        off = [float(np.abs(onsets - start).min()) for start in starts]
        assert max(off) <= 0.12, off
        assert float(np.median(off)) <= 0.02, off
        assert max(off) <= 0.02, off
    for _, (start, end), _ in training[:-1]:  # the call's end has cut the last one short
        assert start + TONE_S <= end <= start + 1.6 + 1e-6


# The opening, and the caller's words.


@asynccontextmanager
async def _events(gateway: Denwa) -> AsyncIterator[list[dict[str, Any]]]:
    """The transcript's events, as they come."""
    found: list[dict[str, Any]] = []

    async def read() -> None:
        url = f"http://127.0.0.1:{gateway.http_port}/v1/events?kind=transcript.segment"
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client, client.stream("GET", url) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read(), name="events")
        await asyncio.sleep(0.3)
        yield found
        await asyncio.sleep(0.5)
        reading.cancel()


async def test_consent_and_the_callers_words(tmp_path: Path) -> None:
    """Until the announcement is said nothing is recorded; where the model listens, the caller's words are kept too.

    They have times within the call, come as events, do not mix with the agent's words, and are left out where the
    agent says so.
    """
    models = {"tiny": TINY | {"listener": "random:stt"}}
    announced = _recorded("wav", model="tiny", consent={"text": "This call is recorded."}, greeting="Good morning.")
    announced["recording"]["begin"] = "consent"
    announced["transcript"] = {"caller": False}
    agents = {"announced": announced, "desk": _recorded(model="tiny", greeting=GREETING)}
    async with denwa(tmp_path, models=models, agents=agents) as gateway, _events(gateway) as events:
        async with call(gateway.server, "announced", NOISE) as first, call(gateway.server, "desk", NOISE) as second:
            await asyncio.sleep(10)
        silenced, kept = await _record(gateway, first), await _record(gateway, second)
    announcement = _lines(silenced, "agent")[:4]
    assert "".join(line["text"] for line in announcement).strip() == "This call is recorded."
    samples, rate = _sound(silenced)
    for channel in samples.T:
        begin = np.flatnonzero(channel)[0] / rate
        assert announcement[-1]["t"] <= begin <= announcement[-1]["t"] + 1.5, "the recording's silence"
    heard, rate = _sound(kept)
    assert np.abs(heard[:rate]).max(axis=0).min() > 0, "the other call is recorded from the answer on"

    length_s = len(samples) / rate
    agent, caller = _lines(kept, "agent"), _lines(kept, "caller")
    assert "".join(line["text"] for line in agent).strip().startswith(GREETING)
    assert len(caller) >= 2
    assert all(0 <= line["t"] <= line["end"] <= length_s + 1 for line in caller), caller
    assert not {line["segment"] for line in agent} & {line["segment"] for line in caller}
    assert not _lines(silenced, "caller")
    assert len(json.loads(_text(kept, "words"))["alignments"]) <= len(agent), "training reads the agent's words alone"
    for text in (_text(kept, "text"), _text(kept, "vtt").replace("<v Caller>", "caller: ")):
        assert "caller: " in text
        assert GREETING in text
    told = {(event["call"], event["data"]["speaker"]) for event in events}
    assert told == {(kept["id"], "agent"), (kept["id"], "caller"), (silenced["id"], "agent")}
    of_caller = "".join(event["data"]["text"] for event in events if event["data"]["speaker"] == "caller")
    assert of_caller.replace(" ", "") == "".join(line["text"] for line in caller).replace(" ", "")


# When things die.


async def test_a_gateway_is_killed_while_it_records(tmp_path: Path) -> None:
    """What was recorded up to half a second before is played by others; the next gateway keeps the calls' records."""
    agents = {"clicked": _recorded("flac"), "desk": _recorded("wav", model="tiny", greeting=GREETING)}
    track, times = clicks.track(20, seed=9)
    async with denwa(tmp_path, models={"tiny": TINY}, agents=agents) as gateway:
        async with call(gateway.server, "clicked", track) as first, call(gateway.server, "desk", track) as second:
            await asyncio.sleep(7)
            running = gateway.processes()
            gateway.process.kill()
            killed_at = time.monotonic()
            await gateway.process.wait()
            await asyncio.sleep(0.5)
            heard = [packet for packet in first.heard if packet.at <= killed_at]
            for caller in (first, second):
                caller.ended.set()  # nobody is left to answer a BYE
        assert len(heard) >= 250
        for _ in range(100):
            if not any(proc.alive(pid) for pid in running):
                break
            await asyncio.sleep(0.05)
        assert not [proc.command(pid) for pid in running if proc.alive(pid)]

    (recording,) = (tmp_path / "recordings").glob("*.flac")
    assert killed_at - _recorded_until(recording, first, times) <= 0.6
    for path in (tmp_path / "recordings").iterdir():
        _plays(path)

    async with denwa(tmp_path, models={"tiny": TINY}, agents=agents) as gateway:
        records = {record["agent"]: record for record in await gateway.wait_records(2)}
    assert set(records) == set(agents)
    for record in records.values():
        assert (record["result"], record["reason"]) == ("failed", "gateway lost")
        assert record["answered_at"] < record["ended_at"]
        assert all(map(record.get, ("recording", "transcript", "vtt", "text", "words"))), record
        _plays(Path(record["recording"]))
    assert GREETING in _text(records["desk"], "text")
    assert GREETING in _text(records["desk"], "vtt")


def _recorded_until(recording: Path, caller: Caller, times: Times) -> float:
    """Up to when the file has what the caller was sent, ``time.monotonic()``."""
    samples, rate = soundfile.read(str(recording), dtype="int16")
    wire = clicks.on_the_wire(caller, times)
    left = clicks.pair(times[: wire.sent.size], clicks.find(samples[:, 0], rate))
    return float(np.nanmedian(wire.returned - left)) + len(samples) / rate


def _plays(path: Path) -> None:
    """SoX and libsndfile read the file to its end, and agree on where that is."""
    samples, rate = soundfile.read(str(path), dtype="int16")
    assert len(samples) == soundfile.info(str(path)).frames >= 5 * rate
    assert np.abs(samples).max(axis=0).min() > 1_000, "both channels have sound"
    if shutil.which("sox"):
        command = ["sox", str(path), "-n", "stat"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert "FAIL" not in done.stderr
        assert "WARN" not in done.stderr
        assert f"Samples read: {2 * len(samples)}" in " ".join(done.stderr.split())


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 8 MB of its own at ``folder``; skips the test where this process may not have one."""
    image = folder.with_suffix(".img")
    folder.mkdir()
    image.write_bytes(bytes(8 << 20))
    make = ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)]
    commands = (make, ["mount", "-o", "loop", str(image), str(folder)])
    for command in commands:
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, timeout=20).returncode:
            absent = f"no disk of the test's own: {' '.join(command)} needs root and loop devices"
            pytest.fail(absent) if os.environ.get("CI") else pytest.skip(absent)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def _fill(folder: Path) -> None:
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4_096))


def _freeze(folder: Path, frozen: bool) -> None:
    subprocess.run(["fsfreeze", "-f" if frozen else "-u", str(folder)], check=True, timeout=20)


async def test_a_disk_that_hangs_and_then_is_full_harms_no_call(tmp_path: Path) -> None:
    """While the disk hangs and when it is full callers hear themselves as before; one log line and a counter each."""
    with _small_disk(tmp_path / "recordings") as disk:
        async with denwa(tmp_path, agents={"recorded": _recorded("wav")}) as gateway:
            async with call(gateway.server, "recorded", NOISE) as caller:
                await asyncio.sleep(2)
                await asyncio.to_thread(_freeze, disk, True)
                hung_at = time.monotonic()
                try:
                    await gateway.wait_log("recording.disk_too_slow", within_s=15)
                    await asyncio.sleep(1)
                finally:
                    await asyncio.to_thread(_freeze, disk, False)
                await asyncio.sleep(1)
                _unharmed(caller, hung_at)
            record = await _record(gateway, caller)
            dropped = await gateway.metric("denwa_recording_blocks_dropped_total")
            assert 8 <= dropped <= 40
            assert len(await gateway.wait_log("recording.disk_too_slow")) == 1
            samples, rate = _sound(record)
            assert abs(len(samples) / rate - len(caller.heard) * rtp.PACKET_S) <= 0.25, "the clock went on"

            _fill(disk)
            async with call(gateway.server, "recorded", NOISE) as caller:
                full_at = time.monotonic()
                await asyncio.sleep(4)
                _unharmed(caller, full_at + 1)
            record = await _record(gateway, caller)
            assert record["result"] == "completed"
            assert len(await gateway.wait_log("recording.failed")) == 1
            assert await gateway.metric("denwa_recordings_failed_total") == 1


def _unharmed(caller: Caller, since: float) -> None:
    """The call goes on, and no packet was missing or empty for longer than a busy machine explains."""
    assert not caller.ended.is_set()
    heard = [packet for packet in caller.heard if packet.at >= since]
    assert rtp.gaps(heard).max() < 0.15
    assert rtp.longest_silence(heard) <= 3
