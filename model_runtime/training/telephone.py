"""What a telephone line does to a voice: 8 kHz, G.711, lost packets and their concealment. Pure.

ITU-T G.711 for the companding laws; the concealment repeats the last pitch period and fades within 60 ms, as its
Appendix I does.
"""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from config.audio import SAMPLE_RATE
from model_runtime.training.resample import Audio, resample

RATE: Final = 8_000
PACKET: Final = 160
"""Samples in a packet: 20 ms."""
_LOW_HZ: Final = 200.0
"""Below, a line's high-pass has its stop band."""
_SHORTEST, _LONGEST = 40, 120
"""Pitch periods that concealment looks for: 200 Hz to 67 Hz, doubled where the voice is higher."""
_FADE: Final = 3
"""Packets after which concealment is silent."""

Law = Literal["mu", "a"]


def telephone(audio: Audio, law: Law, lost: NDArray[np.bool_] | None = None) -> Audio:
    """``audio [n]`` at 24 kHz after a G.711 line: ``[n]`` at 24 kHz, on the same clock.

    ``lost [packets]`` tells which packets of 20 ms do not arrive; packets beyond its end do.
    """
    narrow = highpass(resample(audio, SAMPLE_RATE, RATE), RATE, _LOW_HZ)
    heard = conceal(g711(narrow, law), lost) if lost is not None else g711(narrow, law)
    return resample(heard, RATE, SAMPLE_RATE)[: audio.shape[-1]]


def g711(audio: Audio, law: Law) -> Audio:
    """``audio`` coded with 8 bits a sample and decoded again."""
    table = VALUES[law]
    x = np.clip(audio, -1, 1).astype(np.float32)
    nearest: Audio = table[np.searchsorted((table[1:] + table[:-1]) / 2, x)]
    return nearest


def draw_losses(packets: int, share: float, burst: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Which of so many packets are lost: ``share`` of them, in bursts of ``burst`` on average (Gilbert's model)."""
    assert burst >= 1, burst
    leave = 1 / burst
    enter = share * leave / max(1e-9, 1 - share)
    lost = np.zeros(packets, np.bool_)
    now = False
    for i, drawn in enumerate(random.random(packets)):
        now = drawn >= leave if now else drawn < enter
        lost[i] = now
    return lost


def conceal(audio: Audio, lost: NDArray[np.bool_]) -> Audio:
    """``audio [n]`` at 8 kHz with lost packets filled from what was heard before them."""
    heard = audio.copy()
    run = 0
    for i in range(-(-len(audio) // PACKET)):
        gone = i < len(lost) and bool(lost[i])
        start, end = i * PACKET, min((i + 1) * PACKET, len(audio))
        if gone:
            if run == 0:
                period = _pitch(heard[max(0, start - 3 * _LONGEST) : start])
                cycle = heard[start - period : start] if period else np.zeros(1, np.float32)
            at = np.arange(run * PACKET, run * PACKET + end - start)
            fade = np.clip(1 - (at - PACKET / 2) / ((_FADE - 0.5) * PACKET), 0, 1)
            heard[start:end] = cycle[at % len(cycle)] * fade
            run += 1
        else:
            if run:  # 4 ms from one to the other
                over = min(32, end - start)
                ramp = np.linspace(0, 1, over, dtype=np.float32)
                at = np.arange(run * PACKET, run * PACKET + over)
                fade = np.clip(1 - (at - PACKET / 2) / ((_FADE - 0.5) * PACKET), 0, 1)
                heard[start : start + over] = (
                    ramp * heard[start : start + over] + (1 - ramp) * cycle[at % len(cycle)] * fade
                )
            run = 0
    return heard


def highpass(audio: Audio, rate: int, cutoff: float) -> Audio:
    """``audio [n]`` without what is below ``cutoff`` Hz: a windowed sinc of 40 ms, without delay."""
    half = rate // 50
    at = np.arange(-half, half + 1)
    low = np.sinc(2 * cutoff / rate * at) * np.hanning(len(at))
    kernel = -low / low.sum()
    kernel[half] += 1
    return convolve(audio, kernel.astype(np.float32))[half : half + audio.shape[-1]]


def convolve(audio: Audio, kernel: Audio) -> Audio:
    """The whole convolution ``[n + m - 1]`` of ``audio [n]`` with ``kernel [m]``, by FFT."""
    length = len(audio) + len(kernel) - 1
    size = length + length % 2
    spectrum = torch.fft.rfft(torch.from_numpy(audio), size) * torch.fft.rfft(torch.from_numpy(kernel), size)
    result: Audio = torch.fft.irfft(spectrum, size).numpy()[:length]
    return result


def _pitch(past: Audio) -> int:
    """The period of the end of ``past`` in samples, 0 where there is too little of it."""
    window = _LONGEST
    if len(past) < window + _LONGEST:
        return 0
    last = past[-window:]
    lags = np.arange(_SHORTEST, _LONGEST + 1)
    before = np.stack([past[len(past) - window - lag : len(past) - lag] for lag in lags])
    match = before @ last / np.sqrt((before**2).sum(1) + 1e-9)
    return int(lags[int(match.argmax())])


def _mu_values() -> Audio:
    """The 256 values of the mu-law, rising (G.711 table 2)."""
    code = np.arange(128)
    magnitude = ((2 * (code & 15) + 33) << (code >> 4)) - 33  # of 14 bits
    return _both_signs(magnitude / 8192)


def _a_values() -> Audio:
    """The 256 values of the A-law, rising (G.711 table 1)."""
    code = np.arange(128)
    segment, step = code >> 4, code & 15
    magnitude = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment - 1, 0))  # of 13 bits
    return _both_signs(magnitude / 4096)


def _both_signs(magnitude: NDArray[np.float64]) -> Audio:
    return np.concatenate([-magnitude[::-1], magnitude]).astype(np.float32)


VALUES: Final[Mapping[Law, Audio]] = {"mu": _mu_values(), "a": _a_values()}
"""The 256 values of each law, ``float32``, rising."""
