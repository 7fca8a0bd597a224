"""The ring of keys and values in int8: half of bfloat16's memory, and half of the bytes that a step has to read.

Each key and each value has a scale of its own per head and position, so nothing has to be known about their range
beforehand. Runs on the engine thread.
"""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from model_runtime.kv_cache import RingStep, attend

_LEVELS: Final = 127


@dataclass
class Int8RingKVCache:
    """Keys and values of one layer, after rotation, as multiples of their scale."""

    kv: Tensor  # [B, 2, KV, capacity, D] int8
    scale: Tensor  # [B, 2, KV, capacity] float32
    narrow: Tensor  # [B, 0] of the dtype that values are read in

    @classmethod
    def allocate(
        cls, slots: int, capacity: int, heads: int, head_dim: int, *, device: torch.device, dtype: torch.dtype
    ) -> Self:
        """An empty ring for so many slots; ``dtype`` is what it is read in."""
        return cls(
            torch.zeros(slots, 2, heads, capacity, head_dim, device=device, dtype=torch.int8),
            torch.zeros(slots, 2, heads, capacity, device=device),
            torch.zeros(slots, 0, device=device, dtype=dtype),
        )

    @property
    def capacity(self) -> int:
        """How many positions each slot holds."""
        return self.kv.shape[3]

    @property
    def nbytes(self) -> int:
        """Memory of all slots."""
        return self.kv.nbytes + self.scale.nbytes

    def attend(self, query: Tensor, kv: Tensor, step: RingStep) -> Tensor:
        """Write ``kv [B, T, 2, KV, D]`` where the step's mask holds; what ``query [B, H, T, D]`` hears."""
        narrow, scale = quantize(kv)
        step.write(self.kv, narrow)
        step.write(self.scale, scale)
        return attend(query, self.kv, self.scale, step)

    def read(self, slot: int, places: Tensor) -> Tensor:
        """The keys and values ``[2, KV, S, D]`` in a slot's ``places [S]``."""
        wide = self.kv[slot].index_select(2, places) * self.scale[slot].index_select(2, places)[..., None]
        return wide.to(self.narrow.dtype)

    def put(self, slot: int, places: Tensor, kv: Tensor) -> None:
        """Write ``kv [T, 2, KV, D]`` into a slot's ``places [T]``."""
        narrow, scale = quantize(kv)
        self.kv[slot].index_copy_(2, places, narrow.permute(1, 2, 0, 3))
        self.scale[slot].index_copy_(2, places, scale.permute(1, 2, 0))

    def read_keys(self, count: int) -> Tensor:
        """The keys ``[B, count, KV, D]`` in every slot's first places."""
        wide = self.kv[:, 0, :, :count] * self.scale[:, 0, :, :count, None]
        return wide.to(self.narrow.dtype).transpose(1, 2)

    def put_keys(self, keys: Tensor, mask: Tensor) -> None:
        """Write ``keys [B, P, KV, D]`` into the first places where ``mask [B, P]`` holds."""
        narrow, scale = quantize(keys.transpose(1, 2))
        mask = mask[:, None]  # [B, 1, P]
        there = self.kv[:, 0, :, : keys.shape[1]]
        there.copy_(torch.where(mask[..., None], narrow, there))
        levels = self.scale[:, 0, :, : keys.shape[1]]
        levels.copy_(torch.where(mask, scale, levels))


def quantize(wide: Tensor) -> tuple[Tensor, Tensor]:
    """``wide [..., D]`` as int8 and a float32 scale ``[...]``, of which it is the product up to rounding."""
    exact = wide.float()
    scale = exact.abs().amax(-1) / _LEVELS
    steps = torch.where(scale > 0, 1 / scale, 0.0)
    return (exact * steps[..., None]).round().to(torch.int8), scale
