"""Rotation and gating in one launch each, where eager torch makes five and three."""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK: Final = 1024


def rotate_(heads: Tensor, by: Tensor) -> None:
    """Turn neighbouring pairs of ``heads [B, T, 1, H, D]`` in place by ``by [B, T, 1, 1, D / 2]`` complex."""
    slots, length, kinds, count, dim = heads.shape
    assert kinds == 1, heads.shape
    assert heads.stride()[3:] == (dim, 1), heads.stride()
    pairs = count * dim // 2
    turns = torch.view_as_real(by).contiguous()  # [B, T, 1, 1, D / 2, 2]
    _rotate[(slots * length, triton.cdiv(pairs, _BLOCK))](
        heads, turns, length, heads.stride(0), heads.stride(1), pairs, HALF=dim // 2, BLOCK=_BLOCK
    )


def silu_gate(projected: Tensor) -> Tensor:
    """``silu(a) * b [..., hidden]`` of ``projected [..., 2 * hidden]``, a its first half."""
    projected = projected.contiguous()
    hidden = projected.shape[-1] // 2
    out = projected.new_empty(*projected.shape[:-1], hidden)
    rows = out.numel() // hidden
    _gate[(rows, triton.cdiv(hidden, _BLOCK))](projected, out, hidden, BLOCK=_BLOCK)
    return out


@triton.jit
def _rotate(heads, turns, length, slot_stride, step_stride, pairs, HALF: tl.constexpr, BLOCK: tl.constexpr):
    """Turn ``BLOCK`` pairs of one position."""
    row = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = pair < pairs
    turn = turns + (row * HALF + pair % HALF) * 2
    cos = tl.load(turn, mask=there, other=0.0)
    sin = tl.load(turn + 1, mask=there, other=0.0)
    at = heads + (row // length) * slot_stride + (row % length) * step_stride + pair * 2
    real = tl.load(at, mask=there, other=0.0).to(tl.float32)
    imaginary = tl.load(at + 1, mask=there, other=0.0).to(tl.float32)
    tl.store(at, (real * cos - imaginary * sin).to(heads.dtype.element_ty), mask=there)
    tl.store(at + 1, (real * sin + imaginary * cos).to(heads.dtype.element_ty), mask=there)


@triton.jit
def _gate(projected, out, hidden, BLOCK: tl.constexpr):
    """Gate ``BLOCK`` channels of one row."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = channel < hidden
    gate = tl.load(projected + row * 2 * hidden + channel, mask=there, other=0.0).to(tl.float32)
    value = tl.load(projected + row * 2 * hidden + hidden + channel, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * hidden + channel, (gate * tl.sigmoid(gate) * value).to(out.dtype.element_ty), mask=there)
