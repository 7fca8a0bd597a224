"""agent/records/recorder.py and what it writes with."""

import asyncio
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from structlog.testing import capture_logs

from agent.records import recording as recording_module
from agent.records import wav as wav_module
from agent.records.recorder import Recorder
from agent.records.recording import MAX_WAITING, Format
from agent.records.wav import WavFile
from config.audio import FRAME_SAMPLES, SAMPLE_RATE

FORMATS: list[Format] = ["flac", "wav"]
RATES = [8_000, 16_000, 24_000]


def _blocks(samples: np.ndarray) -> list[np.ndarray]:
    return list(samples.reshape(-1, FRAME_SAMPLES))


def _noise(blocks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9_000, 9_000, blocks * FRAME_SAMPLES).astype(np.int16)


def _read(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(str(path), dtype="int16")
    return samples, rate


@pytest.mark.parametrize("file_format", FORMATS)
async def test_both_channels_are_written_sample_for_sample(file_format: Format, tmp_path: Path) -> None:
    """At 24 kHz the file holds what was given, left the agent, right the caller, in a new folder, for few to read."""
    left, right = _noise(40), _noise(40, 1)
    path = tmp_path / "new" / f"call.{file_format}"
    async with Recorder() as recorder:
        recording = recorder.open(path, file_format)
        for pair in zip(_blocks(left), _blocks(right), strict=True):
            recording.write(*pair)
        recording.close()
        recording.close()
        assert await recording.wait_closed()
    samples, rate = _read(path)
    assert rate == SAMPLE_RATE
    assert np.array_equal(samples, np.stack([left, right], 1))
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
    assert (recorder.dropped, recorder.failed) == (0, 0)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("rate", RATES)
async def test_a_click_lies_exactly(file_format: Format, rate: int, tmp_path: Path) -> None:
    """A click at a sample of the call is at the same time in the file, in either channel, at every rate."""
    step = SAMPLE_RATE // rate if SAMPLE_RATE % rate == 0 else 3
    clicks = [3 * step, 10_000 * step, 60_000, 200_001 // 3 * 3, 300 * FRAME_SAMPLES - 6]
    call = np.zeros((300 * FRAME_SAMPLES, 2), np.int16)
    call[clicks[::2], 0] = call[clicks[1::2], 1] = 25_000
    path = tmp_path / "call"
    async with Recorder() as recorder:
        recording = recorder.open(path, file_format, rate)
        for number, block in enumerate(call.reshape(-1, FRAME_SAMPLES, 2)):
            recording.write(block[:, 0], block[:, 1])
            if number % 50 == 0:
                await asyncio.sleep(0.05)
        recording.close()
        await recording.wait_closed()
    samples, got = _read(path)
    assert got == rate
    assert len(samples) == 300 * FRAME_SAMPLES * rate // SAMPLE_RATE
    for channel, own in ((0, clicks[::2]), (1, clicks[1::2])):
        peaks = [c * rate / SAMPLE_RATE for c in own]
        for peak in peaks:
            first = max(0, round(peak) - 40)
            near = samples[first : first + 80, channel].astype(int)
            assert first + int(np.argmax(near)) == peak


async def test_silence_and_lost_blocks_keep_the_clock(tmp_path: Path) -> None:
    """None is 80 ms of silence; blocks that were missed are silence in their place, at the end too."""
    loud = np.full(FRAME_SAMPLES, 1_000, np.int16)
    async with Recorder() as recorder:
        recording = recorder.open(tmp_path / "call.wav", "wav")
        recording.write(loud, None)
        recording.write(None, loud, missed=40)
        recording.write(None, None)
        recording.write(loud, loud)
        recording.close()
        recording.write(loud, loud)
    samples, _ = _read(tmp_path / "call.wav")
    blocks = samples.reshape(-1, FRAME_SAMPLES, 2)
    assert [tuple(block[0]) for block in blocks] == [(1000, 0), *[(0, 0)] * 40, (0, 1000), (0, 0), (1000, 1000)]


@pytest.mark.parametrize("file_format", FORMATS)
async def test_a_call_without_sound_leaves_an_empty_file(file_format: Format, tmp_path: Path) -> None:
    """A recording that is closed at once can be read: no samples, one in FLAC, which cannot do without."""
    async with Recorder() as recorder:
        recorder.open(tmp_path / "call", file_format)
    assert soundfile.info(str(tmp_path / "call")).frames == (file_format == "flac")


_WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
import numpy as np
from agent.records.recorder import Recorder
async def main():
    rng = np.random.default_rng(0)
    async with Recorder() as recorder:
        recording = recorder.open(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
        begin = asyncio.get_running_loop().time()
        for i in range(1000):
            frame = rng.integers(-9000, 9000, 1920).astype(np.int16)
            recording.write(frame, frame)
            print(i + 1, flush=True)
            await asyncio.sleep(begin + (i + 1) * 0.08 - asyncio.get_running_loop().time())
asyncio.run(main())
"""


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_a_killed_process_loses_half_a_second(file_format: Format, rate: int, tmp_path: Path) -> None:
    """After ``kill -9`` in mid-call the file can be played, tells its true length, and misses 0.5 s at most."""
    path = tmp_path / "call"
    script = [sys.executable, "-c", _WRITER, path, file_format, str(rate)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 20:
                break
        time.sleep(0.05)
        process.kill()
        written = 20 + len(process.stdout.read().split())
        assert process.wait(10) == -signal.SIGKILL
    given = np.random.default_rng(0)
    stream = np.concatenate([given.integers(-9000, 9000, FRAME_SAMPLES).astype(np.int16) for _ in range(written)])
    samples, got = _read(path)
    assert soundfile.info(str(path)).frames == len(samples)
    assert written * 0.08 - 0.5 <= len(samples) / got <= written * 0.08
    assert np.array_equal(samples[:, 0], samples[:, 1])
    if rate == SAMPLE_RATE:
        assert np.array_equal(samples[:, 0], stream[: len(samples)])
    if shutil.which("sox"):
        done = subprocess.run(
            ["sox", "-t", file_format, path, "-n", "stat"], capture_output=True, text=True, timeout=20, check=True
        )
        assert "FAIL" not in done.stderr
        assert f"Samples read: {2 * len(samples)}" in " ".join(done.stderr.split())


async def test_a_wav_file_is_what_others_read(tmp_path: Path) -> None:
    """Python's own reader finds the length right in mid-call, and 16-bit stereo."""
    async with Recorder() as recorder:
        recording = recorder.open(tmp_path / "call.wav", "wav")
        recording.write(_noise(1), None)
        await asyncio.sleep(0.6)
        with wave.open(str(tmp_path / "call.wav")) as file:
            assert file.getparams()[:4] == (2, 2, SAMPLE_RATE, FRAME_SAMPLES)
            assert len(file.readframes(99_999)) == FRAME_SAMPLES * 4


@pytest.mark.parametrize("file_format", FORMATS)
async def test_a_disk_that_fails_costs_the_recording_only(file_format: Format, tmp_path: Path) -> None:
    """A path that cannot be, a file that is there already, and another call beside them that is recorded."""
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").write_text("evidence")
    with capture_logs() as logs:
        async with Recorder() as recorder:
            bad = [recorder.open(tmp_path / name, file_format) for name in ("file/call", "taken")]
            good = recorder.open(tmp_path / "good", file_format)
            for _ in range(3):
                for each in (*bad, good):
                    each.write(_noise(1), _noise(1))
                await asyncio.sleep(0.3)
            assert recorder.failed == 2
            for each in (*bad, good):
                each.close()
            assert [await each.wait_closed() for each in (*bad, good)] == [False, False, True]
    assert recorder.failed == 2
    assert (tmp_path / "taken").read_text() == "evidence"
    assert soundfile.info(str(tmp_path / "good")).frames == 3 * FRAME_SAMPLES
    assert [line["event"] for line in logs] == ["recording.failed"] * 2


_FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
import numpy as np
from agent.records.recorder import Recorder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
async def main():
    rng = np.random.default_rng(0)
    async with Recorder() as recorder:
        recording = recorder.open(Path(sys.argv[1]), sys.argv[2])
        for _ in range(60):
            frame = rng.integers(-9000, 9000, 1920).astype(np.int16)
            recording.write(frame, frame)
            await asyncio.sleep(0.01)
        recording.close()
        sys.exit(0 if not await recording.wait_closed() and recorder.failed == 1 else 3)
asyncio.run(main())
"""


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_full_disk_costs_the_rest(file_format: Format, tmp_path: Path) -> None:
    """Where the file may grow no further the recording fails once, and what it holds can be played."""
    path = tmp_path / "call"
    done = subprocess.run(
        [sys.executable, "-c", _FULL, path, file_format], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("recording.failed") == 1
    samples, _ = _read(path)
    assert 15_000 < len(samples) < 60 * FRAME_SAMPLES


async def test_a_wav_ends_where_its_sizes_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 4 GiB (here: 50 kB) the recording stops with a line in the log and can be played."""
    monkeypatch.setattr(wav_module, "_MAX_DATA", 50_000)
    with capture_logs() as logs:
        async with Recorder() as recorder:
            recording = recorder.open(tmp_path / "call.wav", "wav")
            for _ in range(20):
                recording.write(_noise(1), None)
                await asyncio.sleep(0.05)
    assert [line["event"] for line in logs] == ["recording.full"]
    assert 0 < soundfile.info(str(tmp_path / "call.wav")).frames * 4 <= 50_000


class HangingFile(WavFile):
    """A disk whose writes hang until it is let go; a real one hangs in ``open`` and ``close`` as well."""

    go_on = threading.Event()

    def write(self, samples: np.ndarray) -> None:
        """Wait."""
        assert self.go_on.wait(20)
        super().write(samples)


async def test_a_slow_disk_costs_blocks_not_memory_nor_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk hangs 10 s wait and the rest is dropped: it is silence, and later blocks lie right."""
    monkeypatch.setattr(recording_module, "WavFile", HangingFile)
    HangingFile.go_on.clear()
    path = tmp_path / "call.wav"
    loud = np.full(FRAME_SAMPLES, 5, np.int16)
    with capture_logs() as logs:
        async with Recorder() as recorder:
            recorder.open(tmp_path / "other.wav", "wav").write(loud, loud)
            await asyncio.sleep(0.4)  # the thread hangs in it
            recording = recorder.open(path, "wav")
            begin = time.perf_counter()
            for _ in range(MAX_WAITING + 50):
                recording.write(loud, loud)
            assert time.perf_counter() - begin < 0.1
            assert len(recording._waiting) == MAX_WAITING
            assert recorder.dropped == 50
            HangingFile.go_on.set()
            await asyncio.sleep(0.6)
            recording.write(loud, loud)
    samples, _ = _read(path)
    assert np.flatnonzero(samples[:, 0] == 0).tolist() == list(
        range(MAX_WAITING * FRAME_SAMPLES, (MAX_WAITING + 50) * FRAME_SAMPLES)
    )
    assert [line["event"] for line in logs] == ["recording.disk_too_slow", "recording.incomplete"]


async def test_32_calls_are_kept_up_with(tmp_path: Path) -> None:
    """One thread writes 20 s of 32 calls, of all formats and rates, in less than half that time and drops nothing."""
    frames = [_noise(1, seed) for seed in range(8)]
    async with Recorder() as recorder:
        begin = time.perf_counter()
        recordings = [recorder.open(tmp_path / f"call{i}", FORMATS[i % 2], RATES[i % 3]) for i in range(32)]
        for number in range(250):
            for i, recording in enumerate(recordings):
                recording.write(frames[(number + i) % 8], frames[(number + i + 3) % 8])
            while any(len(each._waiting) > 30 for each in recordings):
                await asyncio.sleep(0.01)
        for recording in recordings:
            recording.close()
        await asyncio.gather(*(each.wait_closed() for each in recordings))
        took = time.perf_counter() - begin
    assert recorder.dropped == 0
    for i, recording in enumerate(recordings):
        assert soundfile.info(str(recording.path)).frames == 250 * FRAME_SAMPLES * RATES[i % 3] // SAMPLE_RATE
    assert took < 10
