"""agent/sounds.py: the WAV files that agents name."""

import wave
from pathlib import Path

import numpy as np
import pytest

from agent.sounds import SoundFault, read_sound, whole_frames


def write(path: Path, rate: int, seconds: float, channels: int = 1, width: int = 2) -> Path:
    """A 440 Hz tone."""
    tone = 8_000 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.repeat(tone.astype(np.int16), channels).tobytes()[:: 2 if width == 1 else 1])
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_a_sound_is_24_khz(tmp_path: Path, rate: int) -> None:
    """Whatever its own rate, it keeps its length, its pitch and its level."""
    sound = read_sound(write(tmp_path / "a.wav", rate, 1.0))
    assert abs(sound.size - 24_000) < 100
    spectrum = np.abs(np.fft.rfft(sound[:24_000].astype(np.float64)))
    assert abs(int(np.argmax(spectrum)) - 440) <= 1
    assert abs(np.sqrt(np.mean(sound[2_000:20_000].astype(np.float64) ** 2)) / (8_000 / 2**0.5) - 1) < 0.02


@pytest.mark.parametrize(
    ("rate", "seconds", "channels", "width", "expected"),
    [
        (24_000, 31.0, 1, 2, "is 31.0 s long; it must be up to 30 s"),
        (24_000, 1.0, 2, 2, "has 2 channels of 16 bit; make it mono, 16 bit"),
        (24_000, 1.0, 1, 1, "has 1 channels of 8 bit"),
        (11_025, 1.0, 1, 2, "has 11025 samples per second"),
        (24_000, 0.0, 1, 2, "is 0.0 s long"),
    ],
)
def test_what_cannot_be_played_is_named(
    tmp_path: Path, rate: int, seconds: float, channels: int, width: int, expected: str
) -> None:
    """With what would be right."""
    with pytest.raises(SoundFault, match=expected):
        read_sound(write(tmp_path / "a.wav", rate, seconds, channels, width))


def test_what_is_no_sound_is_named(tmp_path: Path) -> None:
    """A file that is missing, and one that is something else."""
    with pytest.raises(SoundFault, match="No such file"):
        read_sound(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(SoundFault, match="is no WAV file"):
        read_sound(tmp_path / "text.wav")


def test_frames_are_filled_up_with_silence() -> None:
    """A sound of one sample more than a frame is two."""
    frames = whole_frames(np.ones(1_921, np.int16))
    assert frames.shape == (2, 1_920)
    assert frames.sum() == 1_921
