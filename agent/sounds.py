"""The WAV files that agents name: read once, when a configuration is, and kept at 24 kHz. Blocking; no call waits."""

import wave
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from telephony.resample import Resampler

Samples = NDArray[np.int16]
"""``int16 [n]`` at 24 kHz."""

MAX_S: Final = 30.0
SILENCE: Final[Samples] = np.empty(0, np.int16)


class SoundFault(ValueError):
    """A file that cannot be played; the message says what is wrong and what would be right."""


def read_sound(path: Path) -> Samples:
    """A WAV file, mono, 16 bit, at 8, 16, 24 or 48 kHz and at most 30 s, as 24 kHz. Raises ``SoundFault``."""
    try:
        with wave.open(str(path), "rb") as file:
            shape = (file.getnchannels(), file.getsampwidth())
            rate, count = file.getframerate(), file.getnframes()
            if shape != (1, 2):
                raise SoundFault(f"{path} has {shape[0]} channels of {8 * shape[1]} bit; make it mono, 16 bit")
            if not 0 < count <= MAX_S * rate:
                raise SoundFault(f"{path} is {count / rate:.1f} s long; it must be up to {MAX_S:g} s")
            pcm = np.frombuffer(file.readframes(count), np.int16)
    except OSError as error:
        raise SoundFault(f"{path} cannot be read: {error.strerror}") from None
    except (wave.Error, EOFError) as error:
        raise SoundFault(f"{path} is no WAV file that can be read here ({error}); make it PCM, mono, 16 bit") from None
    try:
        return Resampler(rate, SAMPLE_RATE).push(pcm)
    except ValueError:
        raise SoundFault(f"{path} has {rate} samples per second; make it 8000, 16000, 24000 or 48000") from None


def whole_frames(sound: Samples) -> Samples:
    """``int16 [n, 1920]``: the sound in frames, the last one filled up with silence."""
    return np.concatenate([sound, np.zeros(-sound.size % FRAME_SAMPLES, np.int16)]).reshape(-1, FRAME_SAMPLES)
