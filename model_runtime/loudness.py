"""Loudness of a recording after ITU-R BS.1770-4, and WAV files as arrays. Pure but for reading the file."""

import wave
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.audio import SAMPLE_RATE
from model_runtime.errors import CheckpointError

_BLOCK_S: Final = 0.4
_OVERLAP: Final = 0.75
_ABSOLUTE_GATE: Final = -70.0  # LUFS
_RELATIVE_GATE: Final = -10.0  # LU
_SHELF: Final = (1681.974450955533, 3.999843853973347, 0.7071752369554196)
_HIGH_PASS: Final = (38.13547087602444, 0.5003270373238773)
"""Corner frequency (Hz), gain (dB), Q of the shelf and corner frequency, Q of the high pass (BS.1770-4, annex 1)."""


def loudness(samples: NDArray[np.float32], rate: int = SAMPLE_RATE) -> float:
    """Integrated loudness of a mono recording ``[n]``, -1 .. 1, in LUFS; -inf where nothing passes the gates."""
    size = round(_BLOCK_S * rate)
    weighted = np.square(_weight(samples, rate))
    hop = round(size * (1 - _OVERLAP))
    ends = np.concatenate([[0.0], np.cumsum(weighted)])
    starts = np.arange(0, max(len(samples) - size, 0) + 1, hop)
    power = (ends[np.minimum(starts + size, len(samples))] - ends[starts]) / size
    power = power[_lufs(power) > _ABSOLUTE_GATE]
    if not len(power):
        return float("-inf")
    power = power[_lufs(power) > float(_lufs(power.mean(keepdims=True))[0]) + _RELATIVE_GATE]
    return float(_lufs(power.mean(keepdims=True))[0])


def normalise(samples: NDArray[np.float32], lufs: float, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """The recording at a loudness of ``lufs``; silence stays silence."""
    measured = loudness(samples, rate)
    return samples if np.isinf(measured) else (samples * 10 ** ((lufs - measured) / 20)).astype(np.float32)


def read_wav(path: Path) -> NDArray[np.float32]:
    """The mean of the channels ``[n]``, -1 .. 1, of a 16-bit WAV file of 24 kHz; raises ``CheckpointError``."""
    try:
        with wave.open(str(path), "rb") as file:
            kind = (file.getframerate(), file.getsampwidth())
            channels = file.getnchannels()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise CheckpointError(f"{path}: no WAV file can be read here: {error or type(error).__name__}") from error
    if kind != (SAMPLE_RATE, 2):
        raise CheckpointError(
            f"{path}: {kind[0]} Hz with {8 * kind[1]} bits; a voice sample has {SAMPLE_RATE} Hz and 16 bits "
            f"(sox {path.name} -r {SAMPLE_RATE} -b 16 -c 1 voice.wav)"
        )
    samples = np.frombuffer(data[: len(data) // (2 * channels) * 2 * channels], "<i2").reshape(-1, channels)
    if not len(samples):
        raise CheckpointError(f"{path}: there is no audio in this file")
    mean: NDArray[np.float32] = (samples.mean(1) / 32_768).astype(np.float32)
    return mean


def _lufs(power: NDArray[np.float64]) -> NDArray[np.float64]:
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-20))


def _weight(samples: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """K-weighting: both filters applied as one response over the padded recording's spectrum."""
    length = 1 << (len(samples) + rate - 1).bit_length()  # a second of silence, so that nothing wraps around
    spectrum = np.fft.rfft(samples.astype(np.float64), length)
    z = np.exp(-2j * np.pi * np.arange(len(spectrum)) / length)
    for numerator, denominator in (_shelf(rate), _high_pass(rate)):
        spectrum *= np.polyval(numerator[::-1], z) / np.polyval(denominator[::-1], z)
    weighted: NDArray[np.float64] = np.fft.irfft(spectrum, length)[: len(samples)]
    return weighted


def _shelf(rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    corner, gain, q = _SHELF
    k, high = np.tan(np.pi * corner / rate), 10 ** (gain / 20)
    band = high**0.4996667741545416
    numerator = [high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]
    return np.array(numerator), np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k])


def _high_pass(rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    corner, q = _HIGH_PASS
    k = np.tan(np.pi * corner / rate)
    return np.array([1.0, -2.0, 1.0]), np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k]) / (
        1 + k / q + k * k
    )
