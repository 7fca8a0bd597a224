"""How weights lie in memory for stepping on a CPU. Called once, when a model gets its slots; owns nothing.

A step multiplies a few rows by large matrices, and what it costs is reading them. The library's product of one row by
a matrix that is wider than the row reads it at up to twice the speed when the output is the dimension that runs
fastest; one that narrows, or is not float32, is best as published. Values, shapes and names stay: strides change.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class LaidOut(Protocol):
    """A module that has more to arrange than matrices of linear layers."""

    def lay_out(self) -> None:
        """Arrange the module's own weights; children are arranged already."""


@torch.no_grad()
def lay_out(module: nn.Module) -> None:
    """Arrange the weights of ``module`` for stepping."""
    for child in module.children():
        lay_out(child)
    if isinstance(module, nn.Linear):
        module.weight.data = by_column(module.weight.data)
    elif isinstance(module, LaidOut):
        module.lay_out()


def by_column(weight: Tensor) -> Tensor:
    """``weight [out, in]`` with its columns contiguous, if that is the faster way to read it."""
    widens = weight.shape[0] >= weight.shape[1]
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and widens and weight.is_contiguous():
        return weight.t().contiguous().t()
    return weight
