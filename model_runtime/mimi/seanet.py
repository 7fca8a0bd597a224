"""SEANet (arXiv 2009.02095) as Mimi uses it: the causal convolutional encoder and decoder.

Runs on the engine thread.
"""

from dataclasses import dataclass
from itertools import repeat

from torch import Tensor, nn

from model_runtime.checkpoint.config import SeanetConfig
from model_runtime.mimi.conv import Conv1dState, ConvTranspose1dState, StreamingConv1d, StreamingConvTranspose1d


@dataclass
class SeanetState:
    """One state per convolution that has a past, in the order of the layers."""

    layers: list[Conv1dState | ConvTranspose1dState]


class ResidualBlock(nn.Module):
    """ELU, convolution to fewer channels, ELU, 1x1 convolution back, added to the input."""

    def __init__(self, dim: int, kernel: int, compress: int) -> None:
        super().__init__()
        hidden = dim // compress
        self.block = nn.ModuleList(
            [nn.ELU(), StreamingConv1d(dim, hidden, kernel), nn.ELU(), StreamingConv1d(hidden, dim, 1)]
        )

    def forward(self, x: Tensor, state: Conv1dState | None = None, mask: Tensor | None = None) -> Tensor:
        """Map ``x [B, dim, T]`` to the same shape; only the first convolution has a past."""
        squeeze, narrow, relax, widen = self.block
        y = widen(relax(narrow(squeeze(x), state, mask)))
        return x + y  # type: ignore[no-any-return]  # a module call is Any to mypy

    def new_state(self, slots: int) -> Conv1dState:
        """Fresh state for so many slots."""
        narrow = self.block[1]
        assert isinstance(narrow, StreamingConv1d)
        return narrow.new_state(slots)


_Streaming = StreamingConv1d | StreamingConvTranspose1d | ResidualBlock


class _Seanet(nn.Module):
    """A chain of convolutions, residual blocks and activations."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)

    def new_state(self, slots: int) -> SeanetState:
        """Fresh state for so many slots."""
        return SeanetState([layer.new_state(slots) for layer in self.model if isinstance(layer, _Streaming)])

    def forward(self, x: Tensor, state: SeanetState | None = None, mask: Tensor | None = None) -> Tensor:
        """Pass ``x [B, C, T]`` through every layer."""
        states = iter(state.layers) if state is not None else repeat(None)
        for layer in self.model:
            x = layer(x, next(states), mask) if isinstance(layer, _Streaming) else layer(x)
        return x


class SeanetEncoder(_Seanet):
    """Audio ``[B, 1, T]`` to latents ``[B, dimension, T / hop]``."""

    def __init__(self, config: SeanetConfig) -> None:
        width = config.n_filters
        layers: list[nn.Module] = [StreamingConv1d(1, width, config.kernel_size)]
        for ratio in reversed(config.ratios):
            layers += [
                ResidualBlock(width, config.residual_kernel_size, config.compress),
                nn.ELU(),
                StreamingConv1d(width, 2 * width, 2 * ratio, stride=ratio),
            ]
            width *= 2
        layers += [nn.ELU(), StreamingConv1d(width, config.dimension, config.last_kernel_size)]
        super().__init__(layers)


class SeanetDecoder(_Seanet):
    """Latents ``[B, dimension, T]`` to audio ``[B, 1, T * hop]``."""

    def __init__(self, config: SeanetConfig) -> None:
        width = config.n_filters * 2 ** len(config.ratios)
        layers: list[nn.Module] = [StreamingConv1d(config.dimension, width, config.kernel_size)]
        for ratio in config.ratios:
            layers += [
                nn.ELU(),
                StreamingConvTranspose1d(width, width // 2, 2 * ratio, stride=ratio),
                ResidualBlock(width // 2, config.residual_kernel_size, config.compress),
            ]
            width //= 2
        layers += [nn.ELU(), StreamingConv1d(width, 1, config.last_kernel_size)]
        super().__init__(layers)
