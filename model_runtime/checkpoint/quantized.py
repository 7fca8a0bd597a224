"""The published q8 format: int8 matrices with one float32 scale per row, ``W = CB * SCB / 127``. Owns no tensors."""

from typing import Final

import torch
from torch import Tensor

LEVELS: Final = 127
"""CB runs from -127 to 127; SCB is the magnitude that 127 stands for."""
SUFFIX: Final = "_scb"
"""Of the name of a matrix's scales."""


def dequantize(weight: Tensor, scb: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix ``[out, in]`` in ``dtype`` of ``weight [out, in]`` int8 and ``scb [out]`` float32, rounded once."""
    assert weight.dtype == torch.int8, weight.dtype
    assert scb.shape == weight.shape[:1], (scb.shape, weight.shape)
    return (weight * (scb.float() / LEVELS)[:, None]).to(dtype)
