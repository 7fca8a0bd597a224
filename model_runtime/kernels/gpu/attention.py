"""Attention of one query per slot over its ring, split over the keys so that a single call fills the GPU.

Reads keys and values as they lie in the ring, bfloat16 or int8 with a scale per position and head, and only as many
as the slot has written: a young call costs less than an old one. Each program attends over a run of keys; a second
kernel joins the runs by their maxima.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK: Final = 64
_PROGRAMS: Final = 1024
"""How many programs keep a large GPU busy; fewer slots are split finer."""
_SPLITS: Final = 32


def attend(query: Tensor, kv: Tensor, scale: Tensor | None, bias: Tensor, filled: Tensor) -> Tensor:
    """What ``query [B, H, 1, D]`` hears in ``kv [B, 2, KV, capacity, D]``: ``[B, H, 1, D]``.

    ``scale [B, 2, KV, capacity]`` widens int8 values and is None for others; ``bias [B, 1, 1, capacity]`` is 0 or
    -inf; nothing from place ``filled [B]`` on is read. H is a multiple of KV.
    """
    slots, heads, length, dim = query.shape
    kv_heads, capacity = kv.shape[2], kv.shape[3]
    assert length == 1, query.shape
    splits = triton.next_power_of_2(max(1, min(_SPLITS, _PROGRAMS // (slots * heads), capacity // _BLOCK)))
    run = triton.cdiv(triton.cdiv(capacity, splits), _BLOCK) * _BLOCK
    query, bias = query.contiguous(), bias.contiguous()
    total = torch.empty(slots, heads, splits, dim, device=query.device, dtype=torch.float32)
    sums = torch.empty(slots, heads, splits, 2, device=query.device, dtype=torch.float32)
    out = torch.empty_like(query)
    _attend_run[(slots, heads, splits)](
        query,
        kv,
        kv if scale is None else scale,
        bias,
        filled,
        total,
        sums,
        heads,
        kv_heads,
        capacity,
        kv.stride(0),
        0 if scale is None else scale.stride(0),
        dim**-0.5,
        RUN=run,
        BLOCK=_BLOCK,
        DIM=dim,
        SPLITS=splits,
        SCALED=scale is not None,
        num_warps=4,
    )
    _join_runs[(slots * heads,)](total, sums, out, DIM=dim, SPLITS=splits, num_warps=2)
    return out


@triton.jit
def _attend_run(
    query,
    kv,
    scale,
    bias,
    filled,
    total,
    sums,
    heads,
    kv_heads,
    capacity,
    kv_stride,
    scale_stride,
    softmax_scale,
    RUN: tl.constexpr,
    BLOCK: tl.constexpr,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Attend over one run of keys, and leave the weighted sum of values, the maximum and the sum of weights."""
    slot = tl.program_id(0).to(tl.int64)  # a full cache has more than 2^31 elements
    head = tl.program_id(1)
    run = tl.program_id(2)
    channel = tl.arange(0, DIM)
    here = (slot * heads + head) * SPLITS + run
    asked = tl.load(query + (slot * heads + head) * DIM + channel).to(tl.float32) * softmax_scale
    shared = head // (heads // kv_heads)
    ring = kv + slot * kv_stride + shared * capacity * DIM
    apart = kv_heads * capacity  # positions between a key and its value
    end = tl.minimum((run + 1) * RUN, tl.load(filled + slot).to(tl.int32))
    most = -float("inf")
    weights = 0.0
    heard = tl.zeros((DIM,), dtype=tl.float32)
    for first in range(run * RUN, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        there = place < end
        at = ring + place[:, None] * DIM + channel[None, :]
        key = tl.load(at, mask=there[:, None], other=0).to(tl.float32)
        value = tl.load(at + apart * DIM, mask=there[:, None], other=0).to(tl.float32)
        score = tl.sum(key * asked[None, :], axis=1)
        if SCALED:
            wide = scale + slot * scale_stride + shared * capacity + place
            score = score * tl.load(wide, mask=there, other=0.0).to(tl.float32)
        score = score + tl.load(bias + slot * capacity + place, mask=there, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(score, axis=0))
        level = tl.where(higher == -float("inf"), 0.0, higher)  # a block of hidden keys has no maximum
        weight = tl.exp(score - level)
        fade = tl.exp(most - level)
        weights = weights * fade + tl.sum(weight, axis=0)
        if SCALED:
            weight = weight * tl.load(wide + apart, mask=there, other=0.0).to(tl.float32)
        heard = heard * fade + tl.sum(weight[:, None] * value, axis=0)
        most = higher
    tl.store(total + here * DIM + channel, heard)
    tl.store(sums + here * 2, most)
    tl.store(sums + here * 2 + 1, weights)


@triton.jit
def _join_runs(total, sums, out, DIM: tl.constexpr, SPLITS: tl.constexpr):
    """Weigh the runs of one slot and head by their maxima and add them up."""
    row = tl.program_id(0).to(tl.int64)
    run = tl.arange(0, SPLITS)
    channel = tl.arange(0, DIM)
    most = tl.load(sums + (row * SPLITS + run) * 2)
    weights = tl.load(sums + (row * SPLITS + run) * 2 + 1)
    factor = tl.exp(most - tl.max(most, axis=0))
    heard = tl.load(total + (row * SPLITS + run)[:, None] * DIM + channel[None, :])
    joined = tl.sum(heard * factor[:, None], axis=0) / tl.sum(weights * factor, axis=0)
    tl.store(out + row * DIM + channel, joined.to(out.dtype.element_ty))
