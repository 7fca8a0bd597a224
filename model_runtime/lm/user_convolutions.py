"""Causal convolutions over what the caller's codes embed to, before it joins the other streams.

Moshi has none: there the temporal transformer alone puts a sound together from several frames. A small model may ask
for some in its config; docs/embedded-model.md has the figures of both. Runs on the engine thread.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config import Norm
from model_runtime.state import write_where
from model_runtime.transformer import norm_layer

TAPS: Final = 3
"""Frames that one of them reads, ``dilation`` frames apart, the last being the current one."""


class UserConvolution(nn.Module):
    """``x + W silu(norm(x))`` with W over three frames; the weight is ``[dim, 3 * dim]``, the oldest frame first."""

    def __init__(self, dim: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.norm = norm_layer(norm, dim)
        self.linear = nn.Linear(TAPS * dim, dim, bias=False)
        self._dilation = dilation
        self.past = (TAPS - 1) * dilation
        """Frames before the current one that are read."""

    def forward(self, x: Tensor, previous: Tensor, mask: Tensor | None) -> Tensor:
        """Map ``x [B, T, dim]`` after ``previous [B, past, dim]``, which is brought on where ``mask [B]`` holds."""
        length = x.shape[1]
        read = torch.cat([previous, F.silu(self.norm(x))], dim=1)
        if mask is not None:
            write_where(previous, read[:, length:], mask)
        taps = [read[:, k * self._dilation :][:, :length] for k in range(TAPS)]
        convolved: Tensor = self.linear(torch.cat(taps, dim=-1))
        return x + convolved


class UserConvolutions(nn.ModuleList):
    """One after another; the state of each is what it still reads of the past."""

    def __init__(self, dim: int, dilations: Sequence[int], norm: Norm) -> None:
        super().__init__(UserConvolution(dim, dilation, norm) for dilation in dilations)
        self._dim = dim

    def new_state(self, slots: int) -> list[Tensor]:
        """Fresh state for so many slots: ``[slots, past, dim]`` of each."""
        return [torch.zeros(slots, each.past, self._dim, device=w.device, dtype=w.dtype) for each, w in self._weights()]

    def forward(self, x: Tensor, state: Sequence[Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """Map ``x [B, T, dim]``: a whole sequence, or with ``state`` the next T frames of the slots in ``mask [B]``."""
        if state is None:
            state, mask = self.new_state(x.shape[0]), None
        for each, previous in zip(self, state, strict=True):
            x = each(x, previous, mask)
        return x

    def _weights(self) -> list[tuple[UserConvolution, Tensor]]:
        return [(each, each.linear.weight) for each in self if isinstance(each, UserConvolution)]
