"""Mimi's causal convolutions, which stream: what a step needs of the past is kept per slot.

Runs on the engine thread.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.state import write_where

Padding = Literal["zeros", "replicate"]


@dataclass
class Conv1dState:
    """The input that the next step's first windows still reach."""

    previous: Tensor  # [B, C, kernel - stride]
    started: Tensor  # [B] bool


@dataclass
class ConvTranspose1dState:
    """The part of the output that the next step's windows will add to, without bias."""

    partial: Tensor  # [B, C, kernel - stride]


class StreamingConv1d(nn.Module):
    """A causal convolution: left padding of ``kernel - stride``, none on the right.

    ``padding`` says what stands before the first sample: zeros, or that sample itself.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        bias: bool = True,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        # The published names nest twice: conv.conv.weight.
        self.conv = nn.ModuleDict({"conv": nn.Conv1d(channels_in, channels_out, kernel, stride, bias=bias)})
        self._channels = channels_in
        self._past = kernel - stride
        self._stride = stride
        self._replicate = padding == "replicate"

    def new_state(self, slots: int) -> Conv1dState:
        """Fresh state for so many slots."""
        weight = next(self.parameters())
        return Conv1dState(
            previous=torch.zeros(slots, self._channels, self._past, device=weight.device, dtype=weight.dtype),
            started=torch.zeros(slots, device=weight.device, dtype=torch.bool),
        )

    def forward(self, x: Tensor, state: Conv1dState | None = None, mask: Tensor | None = None) -> Tensor:
        """Map ``x [B, C, T]`` to ``[B, C', T / stride]``; T is a multiple of the stride."""
        assert x.shape[-1] % self._stride == 0, (x.shape, self._stride)
        y: Tensor
        if self._past:
            x = torch.cat([self._left(x, state), x], dim=-1)
        y = self.conv["conv"](x)
        if state is not None and self._past:
            assert mask is not None
            write_where(state.previous, x[..., -self._past :], mask)
            state.started.logical_or_(mask)
        return y

    def _left(self, x: Tensor, state: Conv1dState | None) -> Tensor:
        first = x[..., :1].expand(-1, -1, self._past) if self._replicate else None
        if state is None:
            return x.new_zeros(*x.shape[:2], self._past) if first is None else first
        if first is None:
            return state.previous
        return torch.where(state.started[:, None, None], state.previous, first)


class StreamingConvTranspose1d(nn.Module):
    """A causal transposed convolution: overlapping tails of ``kernel - stride`` are carried on, trimmed at the end."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        conv = nn.ConvTranspose1d(channels_in, channels_out, kernel, stride, groups=groups, bias=bias)
        self.convtr = nn.ModuleDict({"convtr": conv})
        self._channels = channels_out
        self._stride = stride
        self._tail = kernel - stride
        self._by_matmul = kernel == 2 * stride and groups == 1

    def new_state(self, slots: int) -> ConvTranspose1dState:
        """Fresh state for so many slots."""
        weight = next(self.parameters())
        return ConvTranspose1dState(
            torch.zeros(slots, self._channels, self._tail, device=weight.device, dtype=weight.dtype)
        )

    def forward(self, x: Tensor, state: ConvTranspose1dState | None = None, mask: Tensor | None = None) -> Tensor:
        """Map ``x [B, C, T]`` to ``[B, C', T * stride]``."""
        conv = self.convtr["convtr"]
        assert isinstance(conv, nn.ConvTranspose1d)
        # Without bias here, so that the overlap carried to the next step does not hold it twice.
        if self._by_matmul and x.device.type == "cpu":
            y = self._overlapping(x, conv.weight)
        else:
            y = F.conv_transpose1d(x, conv.weight, None, conv.stride, groups=conv.groups)
        # y: [B, C', T * stride + tail]
        length = x.shape[-1] * self._stride
        if state is not None and self._tail:
            assert mask is not None
            y[..., : self._tail] += state.partial
            write_where(state.partial, y[..., length:], mask)
        y = y[..., :length]
        return y if conv.bias is None else y + conv.bias[:, None]

    def _overlapping(self, x: Tensor, weight: Tensor) -> Tensor:
        """The transposed convolution as one product and one addition: a window reaches over two strides.

        For the few positions of a step, the library's own is some times slower on a CPU.
        """
        batch, channels, length = x.shape
        positions = x.transpose(1, 2).reshape(-1, channels)  # [B * T, C], so that the weights are read once
        windows = positions @ weight.view(channels, -1)  # [B * T, C' * 2 * stride]
        first, second = windows.view(batch, length, self._channels, 2, self._stride).permute(3, 0, 2, 1, 4)
        y = x.new_zeros(batch, self._channels, length + 1, self._stride)
        y[:, :, :-1] = first
        y[:, :, 1:] += second
        return y.flatten(2)  # [B, C', T * stride + tail]
