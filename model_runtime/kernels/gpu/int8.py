"""A matmul for few rows of input that reads its weights as int8 and widens them on the way to the tensor cores."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def matmul(x: Tensor, weight: Tensor, scb: Tensor) -> Tensor:
    """``x [..., in]`` times ``weight [out, in]`` int8 transposed, times ``scb [out] / 127``, in x's dtype."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    (m, k), n = rows.shape, weight.shape[0]
    out = torch.empty(m, n, device=x.device, dtype=x.dtype)
    block_m = max(16, triton.next_power_of_2(m))
    # Narrow blocks give every multiprocessor its share of a small matrix; wide ones read x less often.
    block_n = 16 if n <= 4096 else 32 if block_m <= 32 else 64
    block_k = 256 if block_m <= 32 else 128
    _matmul[(triton.cdiv(n, block_n),)](
        rows,
        weight,
        scb,
        out,
        m,
        n,
        k,
        weight.stride(0),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        num_warps=4,
        num_stages=4 if block_m <= 32 else 3,
    )
    return out.view(*x.shape[:-1], n)


@triton.jit
def _matmul(
    x,
    weight,
    scb,
    out,
    m,
    n,
    k,
    stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program computes all rows of ``BLOCK_N`` columns of the output."""
    row = tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for first in range(0, k, BLOCK_K):
        at = first + inner
        given = tl.load(x + row[:, None] * k + at[None, :], mask=(row[:, None] < m) & (at[None, :] < k), other=0.0)
        narrow = tl.load(
            weight + column[None, :].to(tl.int64) * stride + at[:, None],
            mask=(column[None, :] < n) & (at[:, None] < k),
            other=0,
        )  # [BLOCK_K, BLOCK_N]
        total = tl.dot(given, narrow.to(given.dtype), total, input_precision="ieee")
    scale = tl.load(scb + column, mask=column < n, other=0.0) * (1.0 / 127)
    total = total * scale[None, :]
    tl.store(
        out + row[:, None] * n + column[None, :],
        total.to(out.dtype.element_ty),
        mask=(row[:, None] < m) & (column[None, :] < n),
    )
