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
    def plan(
        cls,
        offset: Tensor,
        mask: Tensor,
        length: int,
        capacity: int,
        context: int,
        dtype: torch.dtype,
        layout: "RingLayout | None" = None,
    ) -> Self:
        """The step of ``length`` positions from ``offset [B]`` on, for the slots where ``mask [B]`` holds.

        A masked slot is planned as if it took part, so that its discarded output stays finite. Without a ``layout``
        every slot's ring begins at position 0 and pins nothing.
        """
        assert 0 < length <= capacity, (length, capacity)
        device = offset.device
        positions = offset[:, None] + torch.arange(length, device=device)  # [B, T]
        last = positions[:, -1:]  # [B, 1]
        places = torch.arange(capacity, device=device)[None]
        if layout is None:
            index = positions % capacity
            held = last - (last - places) % capacity  # [B, capacity], < 0: never written
            bias = causal_bias(positions, held, context, dtype)
        else:
            index = layout.index(positions, capacity)
            held = layout.held(last, places, capacity)
            bias = causal_bias(positions, held, context, dtype, layout)
        return cls(
            rows=torch.arange(offset.shape[0], device=device)[:, None],
            index=index,
            mask=mask.view(-1, 1, 1, 1, 1),
            positions=positions,
            bias=bias,
        )


@dataclass
class RingLayout:
    """Which positions each slot's ring holds. All zeros: from position 0 on, none pinned.

    The first ``pinned`` positions keep their places for ever; the others go round in the places that are left.
    """

    start: Tensor  # [B] int64: the first position that is there, pinned ones aside
    pinned: Tensor  # [B] int64

    def slot(self, slot: int) -> "RingLayout":
        """The layout of one slot."""
        return RingLayout(self.start[slot : slot + 1], self.pinned[slot : slot + 1])

    def index(self, positions: Tensor, capacity: int) -> Tensor:
        """The places ``[B, T]`` of ``positions [B, T]`` in a ring."""
        pinned = self.pinned[:, None]
        return torch.where(positions < pinned, positions, pinned + (positions - pinned) % (capacity - pinned))

    def held(self, last: Tensor, places: Tensor, capacity: int) -> Tensor:
        """The positions ``[B, S]`` in ``places [1, S]`` of a ring once ``last [B, 1]`` is written; < 0: none yet."""
        pinned = self.pinned[:, None]
        newest = last - (last - places) % (capacity - pinned)
        return torch.where(places < pinned, places, torch.where(newest < pinned, -1, newest))


def causal_bias(
    queries: Tensor, keys: Tensor, context: int, dtype: torch.dtype, layout: RingLayout | None = None
) -> Tensor:
    """0 where a query at ``queries [B, T]`` sees a key at ``keys [B, S]``, else -inf: ``[B, 1, T, S]``.

    A key is seen when its position is not negative and lies at most ``context - 1`` before the query's. With a
    ``layout`` it must not lie before the ring's start either, and pinned keys are seen however old they are.
    """
    age = queries[:, :, None] - keys[:, None, :]  # [B, T, S]
    if layout is None:
        hidden = (keys < 0)[:, None] | (age < 0) | (age >= context)
    else:
        pinned = ((keys >= 0) & (keys < layout.pinned[:, None]))[:, None]
        lost = ((keys < 0) | (keys < layout.start[:, None]))[:, None]
        hidden = (age < 0) | ((lost | (age >= context)) & ~pinned)
    return torch.zeros_like(age, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None]


@dataclass(frozen=True)
class SlotRing:
    """One slot's ring while many positions are taken in at once: queries see what it held and the new ones."""

    ring: RingKVCache
    slot: int
    held: Tensor  # [S] places that hold something

    def append(self, kv: Tensor, step: RingStep) -> tuple[Tensor, Tensor]:
        """Write ``kv [1, T, 2, H, D]``; returns the keys and values held before, and then the new ones.

        That is ``[1, H, S + T, D]`` each. T is at most the ring's capacity.
        """
        row = self.ring.kv[self.slot]  # [capacity, 2, H, D]
        seen = torch.cat([row[self.held], kv[0]])[None]  # [1, S + T, 2, H, D]
        row[step.index[0]] = kv[0]
        keys, values = seen.unbind(2)
        return keys.transpose(1, 2), values.transpose(1, 2)
