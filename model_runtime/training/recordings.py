"""Recordings of two speakers and their words, as kyutai's moshi-finetune reads them and Denwa records its calls.

A data set is a folder (or its index, ``data.jsonl``): a line ``{"path", "duration"}`` for each recording, a stereo WAV
or FLAC file with the agent on the left and the caller on the right, and beside it ``NAME.json`` with
``{"alignments": [[word, [start, end], "SPEAKER_MAIN"], ...]}``, seconds from the beginning of the file.
What is read here is at 24 kHz, whatever the file's rate.
"""

import json
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.errors import LocalModelError
from model_runtime.training.resample import Audio, resample

INDEX: Final = "data.jsonl"
MAIN_SPEAKER: Final = "SPEAKER_MAIN"
"""The speaker of the left channel: whose words the model is to say."""


class DataError(LocalModelError):
    """A data set that cannot be read; the message names the file."""


class Word(NamedTuple):
    """A spoken word, in seconds from the beginning of what it is in."""

    text: str
    start: float
    end: float

    def later(self, seconds: float) -> "Word":
        """The same word so much later."""
        return Word(self.text, self.start + seconds, self.end + seconds)


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of a data set."""

    path: Path
    duration: float
    """Seconds."""

    @property
    def frames(self) -> int:
        """Frames that it fills, the last one perhaps in part."""
        return ceil(self.duration / FRAME_S - 1e-6)

    def words(self, speaker: str = MAIN_SPEAKER, key: str = "alignments") -> list[Word]:
        """What ``speaker`` says, in the order of time; raises ``DataError``.

        ``key`` is where the words are: Denwa's synthetic data have the caller's under ``caller``.
        """
        return sorted(
            (
                Word(str(text).strip(), float(start), float(end))
                for text, (start, end), who in self.about().get(key, [])
                if who == speaker and str(text).strip()
            ),
            key=lambda word: word.start,
        )

    def about(self) -> dict[str, Any]:
        """All of the file beside the recording; raises ``DataError``."""
        path = self.path.with_suffix(".json")
        try:
            about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no words can be read here: {error}") from error
        return about

    def audio(self, first: int = 0, frames: int | None = None) -> Audio:
        """``float32 [2, n * 1920]`` from frame ``first`` on: at most ``frames`` of them, the last filled with silence.

        Raises ``DataError``.
        """
        rate, channels = _format(self.path)
        if channels != 2:
            raise DataError(f"{self.path}: {channels} channels; a recording has two, the agent's left")
        if rate * FRAME_S % 1:
            raise DataError(f"{self.path}: {rate} Hz: a frame of 80 ms is not a whole number of samples")
        per_frame = round(rate * FRAME_S)
        wanted = self.frames - first if frames is None else max(0, min(frames, self.frames - first))
        before = min(first, 1)  # a frame more on each side, so that the resampler meets no edge
        read = _read(self.path, (first - before) * per_frame, (wanted + before + 1) * per_frame)
        at_24k = resample(read, rate, SAMPLE_RATE)[:, before * FRAME_SAMPLES :]
        whole = np.zeros((2, wanted * FRAME_SAMPLES), np.float32)
        there = min(whole.shape[1], at_24k.shape[1])
        whole[:, :there] = at_24k[:, :there]
        return whole


def read_index(path: Path) -> list[Recording]:
    """The recordings of a data set, ``path`` its folder or its index; raises ``DataError``."""
    index = path / INDEX if path.is_dir() else path
    recordings: list[Recording] = []
    try:
        for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                try:
                    entry = json.loads(line)
                    recordings.append(Recording(index.parent / entry["path"], float(entry["duration"])))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{index}:{number}: no recording is named here: {error!r}") from error
    except OSError as error:
        raise DataError(
            f"{index}: {error.strerror}; `denwa calls export --files` or `denwa train synthesize` makes one"
        ) from error
    return recordings


def write_index(folder: Path, recordings: Sequence[Recording]) -> None:
    """Write ``data.jsonl`` into ``folder``, which all of the recordings are in."""
    lines = [
        json.dumps({"path": each.path.relative_to(folder).as_posix(), "duration": round(each.duration, 3)}) + "\n"
        for each in recordings
    ]
    (folder / INDEX).write_text("".join(lines))


@dataclass(frozen=True, slots=True)
class Crop:
    """A stretch of a recording, on frame boundaries."""

    recording: Recording
    first: int
    frames: int

    def audio(self) -> Audio:
        """``float32 [2, frames * 1920]``."""
        return self.recording.audio(self.first, self.frames)

    def words(self) -> list[Word]:
        """The agent's words that begin in the crop, in seconds from its beginning."""
        return within(self.recording.words(), self.first, self.frames)


def within(words: Sequence[Word], first: int, frames: int) -> list[Word]:
    """The words that begin in so many frames from ``first`` on, in seconds from there."""
    start, end = first * FRAME_S, (first + frames) * FRAME_S
    return [word.later(-start) for word in words if start <= word.start < end]


def crops(recordings: Sequence[Recording], frames: int, first: int = 0) -> Iterator[Crop]:
    """All recordings, one after another, cut into stretches of so many frames; the last of each may be shorter.

    ``first`` moves the cuts, so that another pass sees other crops.
    """
    for recording in recordings:
        start = first % frames - frames if first % frames else 0
        for at in range(start, recording.frames, frames):
            begin, end = max(0, at), min(at + frames, recording.frames)
            if end > begin:
                yield Crop(recording, begin, end - begin)


def write_wav(path: Path, audio: Audio, rate: int = SAMPLE_RATE) -> None:
    """Write ``float32 [channels, n]`` as 16-bit WAV, what is beyond full scale clipped."""
    samples = np.clip(np.round(audio.T * 32767), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(audio.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def _format(path: Path) -> tuple[int, int]:
    """Rate and channels."""
    if path.suffix == ".wav":
        try:
            with wave.open(str(path), "rb") as file:
                return file.getframerate(), file.getnchannels()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        except (wave.Error, EOFError):
            pass  # not a plain PCM one
    soundfile = _soundfile(path)
    try:
        about = soundfile.info(str(path))
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: {error}") from error
    return about.samplerate, about.channels


def _read(path: Path, start: int, count: int) -> Audio:
    """``float32 [channels, n]``, n at most ``count``."""
    if path.suffix == ".wav":
        try:
            with wave.open(str(path), "rb") as file:
                file.setpos(min(start, file.getnframes()))
                return _from_pcm(file.readframes(count), file.getsampwidth(), file.getnchannels())
        except (wave.Error, EOFError):
            pass
    soundfile = _soundfile(path)
    try:
        samples, _ = soundfile.read(str(path), count, start, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise DataError(f"{path}: {error}") from error
    transposed: Audio = np.ascontiguousarray(samples.T)
    return transposed


def _from_pcm(data: bytes, width: int, channels: int) -> Audio:
    """``float32 [channels, n]`` of interleaved little-endian integers of 1 (unsigned) to 4 bytes."""
    raw = np.frombuffer(data, np.uint8)
    raw = raw[: len(raw) // (width * channels) * width * channels].reshape(-1, width)
    if width == 1:
        values = (raw[:, 0].astype(np.float32) - 128) / 128
    else:
        wide = np.zeros((len(raw), 4), np.uint8)
        wide[:, 4 - width :] = raw
        values = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    return np.ascontiguousarray(values.astype(np.float32).reshape(-1, channels).T)


def _soundfile(path: Path) -> Any:
    """The optional package that reads what the standard library cannot."""
    try:
        import soundfile
    except ImportError as error:
        raise DataError(f"{path}: only plain WAV files can be read without the package soundfile") from error
    return soundfile
