"""Audio at one rate made audio at another: a windowed sinc, whole recordings at a time. Pure."""

from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Audio = NDArray[np.float32]
"""Samples in -1 .. 1, ``float32 [n]`` of one channel or ``[channels, n]``."""

_ZERO_CROSSINGS: Final = 16
"""Of the sinc, on each side."""
_ROLLOFF: Final = 0.95
"""The cut-off, relative to half of the lower rate."""
_LARGEST: Final = 160
"""Of a ratio's numerator and denominator: others are rounded to such a ratio."""


def resample(audio: Audio, source: float, target: float) -> Audio:
    """The same sound at ``target`` Hz instead of ``source``; sample i of the result is at time i / target, exactly.

    The result has ``ceil(n * target / source)`` samples. Playing it at ``source`` Hz instead warps speed and pitch.
    """
    ratio = Fraction(target / source).limit_denominator(_LARGEST)
    if ratio == 1:
        return audio
    up, down = ratio.numerator, ratio.denominator
    kernel, width = _kernel(up, down)
    samples = audio.shape[-1]
    rows = torch.from_numpy(np.ascontiguousarray(audio, np.float32)).reshape(-1, 1, samples)
    padded = F.pad(rows, (width, width + down))
    made = F.conv1d(padded, kernel, stride=down)  # [rows, up, blocks]
    joined = made.transpose(1, 2).reshape(rows.shape[0], -1)[:, : ceil(samples * up / down)]
    result: Audio = joined.reshape(*audio.shape[:-1], -1).numpy()
    return result


@lru_cache(maxsize=128)
def _kernel(up: int, down: int) -> tuple[Tensor, int]:
    """Filters ``[up, 1, taps]``, one per phase, for a stride of ``down`` input samples, and their reach."""
    cutoff = min(up, down) * _ROLLOFF
    width = ceil(_ZERO_CROSSINGS * down / cutoff)
    taps = torch.arange(-width, width + down, dtype=torch.float64) / down
    phases = torch.arange(up, dtype=torch.float64)[:, None] / up
    at = (taps - phases) * cutoff
    window = torch.cos(at.clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS) * torch.pi / _ZERO_CROSSINGS / 2) ** 2
    kernel = torch.special.sinc(at) * window * cutoff / down
    return kernel[:, None].float(), width
