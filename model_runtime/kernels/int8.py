"""Weights in int8 with a float32 scale per row: half the bytes of bfloat16, and bytes are what a step costs.

The format is that of the published q8 files: ``W ~ CB * SCB / 127``, with CB the int8 matrix and SCB the largest
magnitude of each row. Activations are not quantised. Runs on the engine thread.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS: Final = 127
_GPU_ROWS: Final = 128
"""Above so many rows of input the arithmetic costs more than the weights' bytes, and the library's matmul wins."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """CB ``[out, in]`` int8 and SCB ``[out]`` float32 of ``weight [out, in]``; a row of zeros stays one."""
    wide = weight.float()
    largest = wide.abs().amax(1)  # [out]
    levels = torch.where(largest > 0, _LEVELS / largest, 0.0)
    return (wide * levels[:, None]).round().to(torch.int8), largest


def linear(x: Tensor, weight: Tensor, scb: Tensor | None = None) -> Tensor:
    """``x [..., in]`` times ``weight [out, in]`` transposed; an int8 weight comes with its ``scb [out]``.

    The result has x's dtype.
    """
    if scb is None:
        return F.linear(x, weight)
    if x.is_cuda and x.numel() // x.shape[-1] <= _GPU_ROWS:
        from model_runtime.kernels.gpu.int8 import matmul

        return matmul(x, weight, scb)
    return eager_linear(x, weight, scb)


def eager_linear(x: Tensor, weight: Tensor, scb: Tensor) -> Tensor:
    """``linear`` for an int8 weight in plain torch; int8 is exact in bfloat16, so the scale alone rounds."""
    return F.linear(x, weight.to(x.dtype)) * (scb / _LEVELS).to(x.dtype)


class Int8Linear(nn.Module):
    """A linear layer without bias whose weight is int8; its keys are those of the published q8 files."""

    weight: Tensor
    weight_scb: Tensor

    def __init__(self, weight: Tensor, scb: Tensor) -> None:
        super().__init__()
        assert weight.dtype == torch.int8, weight.dtype
        assert scb.shape == weight.shape[:1], (scb.shape, weight.shape)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scb", scb.float())

    @classmethod
    def of(cls, layer: nn.Linear) -> "Int8Linear":
        """The quantised form of a layer."""
        assert layer.bias is None
        return cls(*quantize_rows(layer.weight.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., in]`` to ``[..., out]``."""
        return linear(x, self.weight, self.weight_scb)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # torch leaves it untyped
        """Keep the scales in float32 when the module is cast: in bfloat16 they would cost a whole digit."""
        exact = self.weight_scb
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight_scb.dtype != torch.float32:
            self.weight_scb = exact.to(self.weight_scb.device)
        return self


@torch.no_grad()
def quantize_(module: nn.Module) -> None:
    """Turn every linear layer and attention projection of ``module`` into int8, one after the other, in place.

    Embeddings and norms stay as they are, as in the published q8 files.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear.of(child))
        else:
            quantize_(child)
    projection = getattr(module, "in_proj_weight", None)
    if isinstance(projection, nn.Parameter):
        del module.in_proj_weight
        narrow, scb = quantize_rows(projection)
        module.register_buffer("in_proj_weight", narrow)
        module.register_buffer("in_proj_weight_scb", scb)
