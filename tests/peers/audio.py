"""Test signals, and what a line did to them. Levels are in dBFS with a full-scale sine at 0 dBFS (AES17)."""

import itertools
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Signal = NDArray[np.float64]

FULL_SCALE = 32_768.0
FADE_S = 0.01


def tone(frequency: float, level: float, seconds: float, rate: int) -> Samples:
    """A sine of ``frequency`` Hz at ``level`` dBFS, ``int16 [seconds * rate]``."""
    t = np.arange(round(seconds * rate)) / rate
    return _quantize(10 ** (level / 20) * np.sin(2 * np.pi * frequency * t))


def sweep(first: float, last: float, level: float, seconds: float, rate: int) -> Samples:
    """A sine that glides from ``first`` to ``last`` Hz, each octave in the same time, with short fades."""
    t = np.arange(round(seconds * rate)) / rate
    octave_s = seconds / np.log(last / first)
    signal = 10 ** (level / 20) * np.sin(2 * np.pi * first * octave_s * (np.exp(t / octave_s) - 1))
    fade = np.linspace(0, 1, round(FADE_S * rate))
    signal[: fade.size] *= fade
    signal[-fade.size :] *= fade[::-1]
    return _quantize(signal)


def noise(level: float, seconds: float, rate: int, seed: int) -> Samples:
    """White noise at ``level`` dBFS, never silent for as long as a packet."""
    rng = np.random.default_rng(seed)
    return _quantize(10 ** (level / 20) / np.sqrt(2) * rng.standard_normal(round(seconds * rate)))


def chirps(level: float, seconds: float, rate: int, seed: int) -> Samples:
    """Speech-like audio: bursts of coloured noise of 0.2 to 0.6 s, each with its own loudness, with pauses between."""
    rng = np.random.default_rng(seed)
    out = np.zeros(round(seconds * rate))
    at = 0
    while at < out.size:
        n = min(round(rng.uniform(0.2, 0.6) * rate), out.size - at)
        burst = np.convolve(rng.standard_normal(n), np.hanning(9), "same") * np.hanning(n)
        out[at : at + n] = burst / (np.sqrt(np.mean(burst**2)) + 1e-9) * rng.uniform(0.5, 1.0)
        at += n + round(rng.uniform(0.05, 0.2) * rate)
    return _quantize(10 ** (level / 20) / np.sqrt(2) * out)


def write_wav(path: Path, samples: Samples, rate: int) -> Path:
    """Write mono 16-bit WAV; return ``path``."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, samples.size, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def read_wav(path: Path) -> tuple[Samples, int]:
    """Read mono 16-bit WAV; return samples and rate.

    The length comes from the file, not from its header: a recording that was cut off is read all the same.
    """
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth()) != (1, 2):
            raise ValueError(f"{path}: not mono 16-bit")
        rate = file.getframerate()
    return np.frombuffer(path.read_bytes()[44:][: (path.stat().st_size - 44) & ~1], "<i2"), rate


def level(samples: Samples | Signal) -> float:
    """Level in dBFS."""
    power = float(np.mean(np.square(samples.astype(np.float64)))) if samples.size else 0.0
    return float(10 * np.log10(2 * power / FULL_SCALE**2 + 1e-12))


def longest_sound(samples: Samples, rate: int, threshold: float = -45.0) -> Samples:
    """The longest stretch in which every 20 ms are above ``threshold`` dBFS; empty where none is."""
    n = rate // 50
    blocks = samples[: samples.size // n * n].reshape(-1, n)
    loud = np.array([level(block) > threshold for block in blocks], bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(np.int8)))
    if not edges.size:
        return samples[:0]
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return samples[starts[longest] * n : ends[longest] * n]


@dataclass(frozen=True, slots=True)
class ToneFit:
    """A sine found in a recording."""

    frequency: float  # Hz
    level: float  # dBFS
    snr: float  # dB, everything that is not the sine (and no constant) being noise


def fit_tone(samples: Samples, rate: int, frequency: float) -> ToneFit:
    """Fit a sine near ``frequency`` Hz by least squares (IEEE 1057, four parameters) and measure what is left."""
    if samples.size < rate // 10:
        raise ValueError(f"{samples.size} samples are too few to measure a tone")
    x = samples.astype(np.float64)
    t = (np.arange(x.size) - x.size / 2) / rate
    omega = 2 * np.pi * _peak(x, rate, frequency)
    a = b = 0.0
    for step in range(8):
        sine, cosine = np.sin(omega * t), np.cos(omega * t)
        columns = [sine, cosine, np.ones_like(t)]
        if step:
            columns.append(t * (a * cosine - b * sine))
        solved = np.linalg.lstsq(np.stack(columns, 1), x, rcond=None)[0]
        a, b = float(solved[0]), float(solved[1])
        if step:
            omega += float(solved[3])
    fitted = a * np.sin(omega * t) + b * np.cos(omega * t)
    rest = x - fitted
    rest -= rest.mean()
    snr = 10 * np.log10(np.mean(fitted**2) / (np.mean(rest**2) + 1e-12))
    return ToneFit(omega / (2 * np.pi), float(level(fitted)), float(snr))


def cleanest_tone(samples: Samples, rate: int, frequency: float) -> ToneFit:
    """Fit the tone to every half second and return the best fit: the path's own noise.

    Where a slow machine is late, the line puts in silence and counts it. That is no noise of the path, and the next
    half second is whole again.
    """
    window = rate // 2
    starts = range(0, samples.size - window + 1, window // 2)
    return max((fit_tone(samples[at : at + window], rate, frequency) for at in starts), key=lambda fit: fit.snr)


def _peak(x: Signal, rate: int, frequency: float) -> float:
    """Where the spectrum is highest within 20 Hz of ``frequency``: near enough for the fit to converge."""
    n = 8 << x.size.bit_length()
    frequencies = np.fft.rfftfreq(n, 1 / rate)
    near = np.flatnonzero(np.abs(frequencies - frequency) <= 20)
    return float(frequencies[near][np.argmax(np.abs(np.fft.rfft(x * np.hanning(x.size), n)[near]))])


def lag(reference: Samples | Signal, recorded: Samples | Signal) -> int:
    """How many samples later ``recorded`` has what ``reference`` has, by cross-correlation; may be negative."""
    n = 1 << (reference.size + recorded.size - 1).bit_length()
    spectrum = np.fft.rfft(recorded.astype(np.float64), n) * np.conj(np.fft.rfft(reference.astype(np.float64), n))
    at = int(np.argmax(np.fft.irfft(spectrum, n)))
    return at if at < recorded.size else at - n


def overlap(reference: Samples, recorded: Samples, delay: int) -> tuple[Signal, Signal]:
    """The part both have, where ``recorded[i + delay]`` belongs to ``reference[i]``."""
    first, last = max(0, -delay), min(reference.size, recorded.size - delay)
    return reference[first:last].astype(np.float64), recorded[first + delay : last + delay].astype(np.float64)


def response(sent: Samples, recorded: Samples, rate: int, bands: list[float]) -> list[float]:
    """Gain in dB in each band (``bands`` are its n + 1 edges in Hz) relative to the band that holds 1 kHz."""
    sent_part, recorded_part = overlap(sent, recorded, lag(sent, recorded))
    frequencies = np.fft.rfftfreq(sent_part.size, 1 / rate)
    powers = [np.abs(np.fft.rfft(part)) ** 2 for part in (sent_part, recorded_part)]
    gains = []
    for low, high in itertools.pairwise(bands):
        inside = (frequencies >= low) & (frequencies < high)
        gains.append(10 * np.log10(powers[1][inside].sum() / powers[0][inside].sum()))
    reference = gains[sum(edge <= 1000 for edge in bands) - 1]
    return [float(gain - reference) for gain in gains]


@dataclass(frozen=True, slots=True)
class Match:
    """How well a recording is a delayed and scaled copy of a reference."""

    delay: float  # samples
    gain: float  # dB
    snr: float  # dB
    seconds: float  # length of what was compared


def match(reference: Samples, recorded: Samples, rate: int, skip_s: float = 0.0) -> Match:
    """Align to a fraction of a sample, fit the gain, and measure the rest as noise.

    The first ``skip_s`` seconds of the overlap are left out (a codec's or a model's first frames).
    """
    coarse = lag(reference, recorded)
    x, y = overlap(reference, recorded, coarse)
    skip = round(skip_s * rate)
    x, y = x[skip:], y[skip:]
    spectrum, turns = np.fft.rfft(x), 2j * np.pi * np.fft.rfftfreq(x.size)

    def shifted(fraction: float) -> Signal:
        return np.fft.irfft(spectrum * np.exp(-turns * fraction), x.size)

    low, high = -1.0, 1.0
    for _ in range(24):  # golden-section would be quicker; this reads better
        third = (high - low) / 3
        if np.dot(shifted(low + third), y) < np.dot(shifted(high - third), y):
            low += third
        else:
            high -= third
    fraction = (low + high) / 2
    edge = min(800, x.size // 8)  # the shift wraps round at the ends, and that decays slowly
    model, heard = shifted(fraction)[edge:-edge], y[edge:-edge]
    gain = float(np.dot(model, heard) / (np.dot(model, model) + 1e-12))
    rest = heard - gain * model
    snr = 10 * np.log10((np.mean((gain * model) ** 2) + 1e-12) / (np.mean(rest**2) + 1e-12))
    return Match(coarse + fraction, float(20 * np.log10(abs(gain) + 1e-12)), float(snr), heard.size / rate)


def _quantize(signal: Signal) -> Samples:
    return np.clip(np.round(signal * FULL_SCALE), -32_768, 32_767).astype(np.int16)
