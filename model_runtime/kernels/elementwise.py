"""Rotation of heads and gating, which are many launches in eager torch and one each in Triton.

Runs on the engine thread, and wherever a model is trained: what needs a gradient stays in eager torch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def rotate(heads: Tensor, by: Tensor) -> Tensor:
    """Turn neighbouring pairs of ``heads [B, T, N, H, D]`` in float32 (interleaved RoPE, arXiv 2104.09864).

    ``by [B, T, 1, 1, D / 2]`` are unit complex numbers.
    """
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * by).flatten(-2).to(heads.dtype)


def rotate_(heads: Tensor, by: Tensor) -> None:
    """``rotate`` in place."""
    if heads.is_cuda and not heads.requires_grad:
        from model_runtime.kernels.gpu.elementwise import rotate_ as rotate_on_gpu

        rotate_on_gpu(heads, by)
    elif heads.dtype == torch.float32:
        torch.view_as_complex(heads.view(*heads.shape[:-1], -1, 2)).mul_(by)
    else:
        heads.copy_(rotate(heads, by))


def silu_gate(projected: Tensor) -> Tensor:
    """``silu(a) * b [..., hidden]`` of ``projected [..., 2 * hidden]``, a its first half."""
    if projected.is_cuda and not projected.requires_grad:
        from model_runtime.kernels.gpu.elementwise import silu_gate as silu_gate_on_gpu

        return silu_gate_on_gpu(projected)
    gate, value = projected.chunk(2, dim=-1)
    return F.silu(gate) * value
