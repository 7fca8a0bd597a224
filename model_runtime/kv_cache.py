"""The ring of keys and values that lets attention stream for ever. Runs on the engine thread.

Every slot has its own offset, so slots join and leave at any step. A ring whose capacity equals the attention's
context is what the deployed reference uses: with T positions per step, the first T - 1 queries of a step then see
fewer than ``context`` keys once the ring is full, because the step's own last keys have replaced the oldest ones.
A capacity of ``context + T - 1`` makes streaming equal to one pass over the whole sequence.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass
class RingKVCache:
    """Keys and values of one layer, after rotation."""

    kv: Tensor  # [B, capacity, 2, H, D]

    @classmethod
    def allocate(
        cls, slots: int, capacity: int, heads: int, head_dim: int, *, device: torch.device, dtype: torch.dtype
    ) -> Self:
        """An empty ring for so many slots."""
        return cls(torch.zeros(slots, capacity, 2, heads, head_dim, device=device, dtype=dtype))

    def append(self, kv: Tensor, step: "RingStep") -> tuple[Tensor, Tensor]:
        """Write ``kv [B, T, 2, H, D]`` where the step's mask holds.

        Returns all keys and all values, ``[B, H, capacity, D]`` each.
        """
        at = (step.rows, step.index)
        self.kv[at] = torch.where(step.mask, kv, self.kv[at])
        keys, values = self.kv.unbind(2)  # [B, capacity, H, D]
        return keys.transpose(1, 2), values.transpose(1, 2)


@dataclass(frozen=True)
class RingStep:
    """Where one step writes in every ring of a transformer, and what its queries may see there."""

    rows: Tensor  # [B, 1]
    index: Tensor  # [B, T]
    mask: Tensor  # [B, 1, 1, 1, 1]
    positions: Tensor  # [B, T], of the queries
    bias: Tensor  # [B, 1, T, capacity], 0 or -inf

    @classmethod
    def plan(cls, offset: Tensor, mask: Tensor, length: int, capacity: int, context: int, dtype: torch.dtype) -> Self:
        """The step of ``length`` positions from ``offset [B]`` on, for the slots where ``mask [B]`` holds.

        A masked slot is planned as if it took part, so that its discarded output stays finite.
        """
        assert 0 < length <= capacity, (length, capacity)
        device = offset.device
        positions = offset[:, None] + torch.arange(length, device=device)  # [B, T]
        last = positions[:, -1:]  # [B, 1]
        held = last - (last - torch.arange(capacity, device=device)) % capacity  # [B, capacity], < 0: never written
        return cls(
            rows=torch.arange(offset.shape[0], device=device)[:, None],
            index=positions % capacity,
            mask=mask.view(-1, 1, 1, 1, 1),
            positions=positions,
            bias=causal_bias(positions, held, context, dtype),
        )


def causal_bias(queries: Tensor, keys: Tensor, context: int, dtype: torch.dtype) -> Tensor:
    """0 where a query at ``queries [B, T]`` sees a key at ``keys [B, S]``, else -inf: ``[B, 1, T, S]``.

    A key is seen when its position is not negative and lies at most ``context - 1`` before the query's.
    """
    age = queries[:, :, None] - keys[:, None, :]  # [B, T, S]
    hidden = (keys[:, None, :] < 0) | (age < 0) | (age >= context)
    return torch.zeros_like(age, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None]
