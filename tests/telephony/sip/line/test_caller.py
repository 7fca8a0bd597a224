import asyncio
import multiprocessing
from pathlib import Path

import pytest

from telephony.errors import CallFailed
from telephony.sip.line.caller import CallReport, place_call
from tests.peers.audio import fit_tone, read_wav, tone, write_wav
from tests.peers.processes import end, free_port


def _place(conn, uri, options) -> None:  # type: ignore[no-untyped-def]
    try:
        conn.send(place_call(uri, **options))
    except (CallFailed, ValueError) as error:
        conn.send(error)


def _in_child(uri: str, *, play: Path | None = None, record: Path | None = None, codec: str | None = None) -> object:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    options = {"play": play, "record": record, "seconds": 2.0, "codec": codec}
    child = context.Process(target=_place, args=(theirs, uri, options))
    child.start()
    result = ours.recv() if ours.poll(20) else None
    child.join(10)
    assert child.exitcode == 0
    child.close()
    ours.close()
    theirs.close()
    return result


@pytest.mark.peer("sipp")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_call_is_placed_played_and_recorded(tmp_path: Path, transport: str) -> None:
    """SIPp answers and echoes the RTP: the tone of the WAV is in the recording, and the report says how it went."""
    port, media = free_port(), free_port()
    arguments = ["-sn", "uas", "-i", "127.0.0.1", "-p", str(port), "-mi", "127.0.0.1", "-mp", str(media), "-rtp_echo"]
    mode = ["-t", "t1"] if transport == "tcp" else []
    sipp = await asyncio.create_subprocess_exec(
        "sipp",
        *arguments,
        *mode,
        "-nostdin",
        *("-m", "1"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        play = write_wav(tmp_path / "tone.wav", tone(1_000, -10, 3.0, 16_000), 16_000)
        record = tmp_path / "heard.wav"
        uri = f"sip:service@127.0.0.1:{port}" + (";transport=tcp" if transport == "tcp" else "")
        report = await asyncio.to_thread(_in_child, uri, play=play, record=record, codec="PCMU")
    finally:
        await end(sipp, 0.5)
    assert isinstance(report, CallReport), report
    assert (report.status, report.codec, report.hung_up_by, report.lost) == (200, "PCMU", "us", 0)
    assert 1.9 < report.duration_s < 2.5
    assert report.received > 80
    samples, rate = read_wav(record)
    fit = fit_tone(samples[rate // 2 : rate * 3 // 2], rate, 1_000)
    assert abs(fit.level + 10) < 0.5
    assert fit.snr > 20  # SIPp's echo is not even in time


async def test_nobody_there_is_a_failed_call() -> None:
    """A port without a phone behind it is told as such, with a status."""
    failed = await asyncio.to_thread(_in_child, f"sip:nobody@127.0.0.1:{free_port()};transport=tcp")
    assert isinstance(failed, CallFailed)
    assert failed.status in (0, 502, 503)


@pytest.mark.parametrize(
    ("uri", "codec", "complaint"), [("tel:123", None, "not a SIP URI"), ("sip:a@127.0.0.1", "OPUS", "unknown codec")]
)
def test_bad_arguments_are_told_before_any_call(uri: str, codec: str | None, complaint: str) -> None:
    """A wrong URI or codec raises at once."""
    with pytest.raises(ValueError, match=complaint):
        place_call(uri, play=None, record=None, seconds=1, codec=codec)


def test_a_wav_that_is_none_is_told_before_any_call(tmp_path: Path) -> None:
    """So does a file that is no mono 16-bit WAV."""
    (tmp_path / "noise.wav").write_bytes(b"noise")
    with pytest.raises(ValueError, match=r"noise\.wav"):
        place_call("sip:a@127.0.0.1", play=tmp_path / "noise.wav", record=None, seconds=1, codec=None)
