"""A data set in moshi-finetune's form, whoever wrote it, is read at 24 kHz with its words."""

import json
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent.records.dataset import index_recordings
from agent.records.flac import FlacFile
from agent.records.forms import finish
from agent.records.wav import WavFile
from model_runtime.training.recordings import (
    Crop,
    DataError,
    Recording,
    Word,
    crops,
    read_index,
    within,
    write_index,
    write_wav,
)


def tones(rate: int, seconds: float) -> np.ndarray:
    """Left 500 Hz, right 800 Hz, ``float32 [2, n]``."""
    at = np.arange(round(rate * seconds)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * hz * at) for hz in (500, 800)]).astype(np.float32)


def write_plain_wav(path: Path, audio: np.ndarray, rate: int) -> None:
    """A WAV file by the standard library alone."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((audio.T * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000])
@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_file_of_any_rate_is_read_at_24_khz(tmp_path: Path, rate: int, kind: str) -> None:
    """Left and right are where they were, to the sample, and the last frame is filled with silence."""
    path = tmp_path / f"call.{kind}"
    if kind == "wav":
        write_plain_wav(path, tones(rate, 1.0), rate)
    else:
        soundfile.write(path, tones(rate, 1.0).T, rate)
    audio = Recording(path, 1.0).audio()
    assert audio.shape == (2, 13 * 1920)
    wanted = tones(24_000, 1.0)
    assert np.abs(audio[:, 500:23_000] - wanted[:, 500:23_000]).max() < 0.005
    assert not audio[:, 24_100:].any()


def test_a_crop_is_a_piece_of_the_whole(tmp_path: Path) -> None:
    """A crop out of a file at 8 kHz has the samples that the whole has there, without an edge."""
    write_plain_wav(tmp_path / "call.wav", tones(8_000, 2.0), 8_000)
    recording = Recording(tmp_path / "call.wav", 2.0)
    np.testing.assert_allclose(recording.audio(5, 8), recording.audio()[:, 5 * 1920 : 13 * 1920], atol=1e-6)


def test_all_of_a_recording_is_in_its_crops() -> None:
    """Crops follow each other without gap, the last as short as it is; an offset moves the cuts."""
    recording = Recording(Path("x.wav"), 25 * 0.08)
    assert [(c.first, c.frames) for c in crops([recording], 10)] == [(0, 10), (10, 10), (20, 5)]
    assert [(c.first, c.frames) for c in crops([recording], 10, 4)] == [(0, 4), (4, 10), (14, 10), (24, 1)]


def test_words_that_begin_in_a_crop_are_its_words() -> None:
    """A word belongs to the crop that it begins in, in that crop's time."""
    words = [Word("a", 0.7, 0.9), Word("b", 0.8, 1.0), Word("c", 1.59, 1.7), Word("d", 1.6, 1.9)]
    assert [(w.text, round(w.start, 2)) for w in within(words, 10, 10)] == [("b", 0.0), ("c", 0.79)]


def test_what_denwa_records_is_read(tmp_path: Path) -> None:
    """Denwa's own files of a call, its words and its index: the agent's heard words alone, in time."""
    audio = (tones(24_000, 0.8).T * 32767).astype(np.int16)
    for file in (FlacFile(tmp_path / "a.flac", 24_000), WavFile(tmp_path / "b.wav", 24_000)):
        file.write(audio)
        file.close()
    lines = [
        {"call": "a", "agent": "front-desk"},
        {"t": 0.1, "end": 0.2, "speaker": "agent", "segment": 0, "text": " Good"},
        {"t": 0.2, "end": 0.3, "speaker": "agent", "segment": 0, "text": " morn"},
        {"t": 0.3, "end": 0.4, "speaker": "agent", "segment": 0, "text": "ing"},
        {"t": 0.5, "end": 0.6, "speaker": "caller", "segment": 1, "text": " hello"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    finish(tmp_path / "a.jsonl", tmp_path / "a.flac")
    finish(tmp_path / "a.jsonl", tmp_path / "b.wav")
    assert index_recordings(tmp_path) == 2
    flac, wav = read_index(tmp_path)
    assert flac.words() == wav.words() == [Word("Good", 0.1, 0.2), Word("morning", 0.2, 0.4)]
    np.testing.assert_array_equal(flac.audio(), wav.audio())
    np.testing.assert_allclose(wav.audio()[:, : len(audio)], audio.T / 32768, atol=1e-6)


def test_wav_needs_no_other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without soundfile, WAV files of all widths are read, and a FLAC file is refused by name."""
    monkeypatch.setitem(sys.modules, "soundfile", None)
    write_wav(tmp_path / "a.wav", tones(24_000, 0.16))
    assert np.abs(Recording(tmp_path / "a.wav", 0.16).audio() - tones(24_000, 0.16)).max() < 1e-4
    with wave.open(str(tmp_path / "b.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(3)
        file.setframerate(24_000)
        file.writeframes(b"\x00\x00\x40\x00\x00\xc0" * 1920)
    assert Recording(tmp_path / "b.wav", 0.08).audio()[:, 0].tolist() == [0.5, -0.5]
    (tmp_path / "c.flac").write_bytes(b"fLaC")
    with pytest.raises(DataError, match=r"c\.flac.*soundfile"):
        Recording(tmp_path / "c.flac", 1.0).audio()


def test_faults_name_the_file(tmp_path: Path) -> None:
    """A missing index, a line that is none, and a mono file are told with their names."""
    with pytest.raises(DataError, match=r"data\.jsonl"):
        read_index(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"path": "a.wav"}\n')
    with pytest.raises(DataError, match=r"data\.jsonl:1"):
        read_index(tmp_path)
    write_wav(tmp_path / "a.wav", tones(24_000, 0.1)[:1])
    with pytest.raises(DataError, match=r"a\.wav: 1 channels"):
        Recording(tmp_path / "a.wav", 0.1).audio()
    with pytest.raises(DataError, match=r"a\.json"):
        Crop(Recording(tmp_path / "a.wav", 0.1), 0, 1).words()


def test_an_index_that_is_written_is_read(tmp_path: Path) -> None:
    """Paths are relative to the folder."""
    write_index(tmp_path, [Recording(tmp_path / "sub" / "a.wav", 1.23456)])
    assert read_index(tmp_path / "data.jsonl") == [Recording(tmp_path / "sub" / "a.wav", 1.235)]
