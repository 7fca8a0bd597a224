"""The ring of keys and values that lets attention stream for ever. Runs on the engine thread.

Every slot has its own offset, so slots join and leave at any step. A ring whose capacity equals the attention's
context is what the deployed reference uses: with T positions per step, the first T - 1 queries of a step then see
fewer than ``context`` keys once the ring is full, because the step's own last keys have replaced the oldest ones.
A capacity of ``context + T - 1`` makes streaming equal to one pass over the whole sequence.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F


class Ring(Protocol):
    """One layer's keys and values of every slot, in whatever form they are kept."""

    @property
    def capacity(self) -> int:
        """How many positions each slot holds."""

    @property
    def nbytes(self) -> int:
        """Memory of all slots."""

    def attend(self, query: Tensor, kv: Tensor, step: "RingStep") -> Tensor:
        """Write ``kv [B, T, 2, KV, D]`` where the step's mask holds, and let ``query [B, H, T, D]`` look around.

        Returns what was heard, ``[B, H, T, D]``.
        """

    def read(self, slot: int, places: Tensor) -> Tensor:
        """The keys and values ``[2, KV, S, D]`` in a slot's ``places [S]``."""

    def put(self, slot: int, places: Tensor, kv: Tensor) -> None:
        """Write ``kv [T, 2, KV, D]`` into a slot's ``places [T]``."""

    def read_keys(self, count: int) -> Tensor:
        """The keys ``[B, count, KV, D]`` in every slot's first places."""

    def put_keys(self, keys: Tensor, mask: Tensor) -> None:
        """Write ``keys [B, P, KV, D]`` into the first places where ``mask [B, P]`` holds."""


@dataclass
class RingKVCache:
    """Keys and values of one layer, after rotation, as they are."""

    kv: Tensor  # [B, 2, KV, capacity, D]: what one head attends over lies together

    @classmethod
    def allocate(
        cls, slots: int, capacity: int, heads: int, head_dim: int, *, device: torch.device, dtype: torch.dtype
    ) -> Self:
        """An empty ring for so many slots."""
        return cls(torch.zeros(slots, 2, heads, capacity, head_dim, device=device, dtype=dtype))

    @property
    def capacity(self) -> int:
        """How many positions each slot holds."""
        return self.kv.shape[3]

    @property
    def nbytes(self) -> int:
        """Memory of all slots."""
        return self.kv.nbytes

    def attend(self, query: Tensor, kv: Tensor, step: "RingStep") -> Tensor:
        """Write ``kv [B, T, 2, KV, D]`` where the step's mask holds; what ``query [B, H, T, D]`` hears."""
        self.append(kv, step)
        return attend(query, self.kv, None, step)

    def append(self, kv: Tensor, step: "RingStep") -> None:
        """Write ``kv [B, T, 2, KV, D]`` where the step's mask holds."""
        step.write(self.kv, kv)

    def read(self, slot: int, places: Tensor) -> Tensor:
        """The keys and values ``[2, KV, S, D]`` in a slot's ``places [S]``."""
        return self.kv[slot].index_select(2, places)

    def put(self, slot: int, places: Tensor, kv: Tensor) -> None:
        """Write ``kv [T, 2, KV, D]`` into a slot's ``places [T]``."""
        self.kv[slot].index_copy_(2, places, kv.permute(1, 2, 0, 3))

    def read_keys(self, count: int) -> Tensor:
        """The keys ``[B, count, KV, D]`` in every slot's first places."""
        return self.kv[:, 0, :, :count].transpose(1, 2)

    def put_keys(self, keys: Tensor, mask: Tensor) -> None:
        """Write ``keys [B, P, KV, D]`` into the first places where ``mask [B, P]`` holds."""
        there = self.kv[:, 0, :, : keys.shape[1]]  # [B, KV, P, D]
        there.copy_(torch.where(mask[:, None, :, None], keys.transpose(1, 2), there))


@dataclass(frozen=True)
class RingStep:
    """Where one step writes in every ring of a transformer, and what its queries may see there."""

    rows: Tensor  # [A, 1]: the slots that write
    index: Tensor  # [A, T]
    mask: Tensor | None  # [B]: which of all slots take part, where ``rows`` could not be told without waiting
    taking_part: Tensor | None  # [A]: ``rows`` where they are not all slots
    positions: Tensor  # [B, T], of the queries
    bias: Tensor  # [B, 1, T, S], 0 or -inf, for the first S places: the others have never been written
    filled: Tensor  # [B]: places from here on have never been written

    def write(self, ring: Tensor, new: Tensor) -> None:
        """Enter ``new [B, T, 2, KV, ...]`` into ``ring [B, 2, KV, capacity, ...]`` for the slots that take part."""
        if self.taking_part is not None:
            new = new[self.taking_part]
        if self.mask is not None:
            mask = self.mask.view(-1, *(1,) * (new.dim() - 1))
            new = torch.where(mask, new, ring[self.rows, :, :, self.index])
        ring[self.rows, :, :, self.index] = new

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
        reach = capacity
        if device.type == "cpu":  # where nobody waits for it, what has never been written is not looked at either
            reach = min(capacity, int(offset.max()) + length)
        places = torch.arange(reach, device=device)[None]
        if layout is None:
            index = positions % capacity
            held = last - (last - places) % capacity  # [B, S], < 0: never written
            bias = causal_bias(positions, held, context, dtype)
        else:
            index = layout.index(positions, capacity)
            held = layout.held(last, places, capacity)
            bias = causal_bias(positions, held, context, dtype, layout)
        filled = last.squeeze(1).add(1).clamp_(max=capacity)
        everyone = torch.arange(offset.shape[0], device=device)
        if device.type != "cpu":
            return cls(everyone[:, None], index, mask, None, positions, bias, filled)
        rows = mask.nonzero()  # [A, 1]; on the CPU nobody waits for it
        if len(rows) == len(mask):
            return cls(rows, index, None, None, positions, bias, filled)
        taking_part = rows.squeeze(1)
        return cls(rows, index[taking_part], None, taking_part, positions, bias, filled)


def attend(query: Tensor, kv: Tensor, scale: Tensor | None, step: RingStep) -> Tensor:
    """What ``query [B, H, T, D]`` hears in a ring ``kv [B, 2, KV, capacity, D]``: ``[B, H, T, D]``.

    ``scale [B, 2, KV, capacity]`` widens values that are kept in int8, and is None for others.
    """
    if query.is_cuda and query.shape[2] == 1:
        from model_runtime.kernels.gpu.attention import attend as attend_on_gpu

        return attend_on_gpu(query, kv, scale, step.bias, step.filled)
    seen = step.bias.shape[-1]
    kv = kv[:, :, :, :seen]
    if scale is not None:
        kv = (kv * scale[:, :, :, :seen, None]).to(query.dtype)
    return attend_over(query, kv[:, 0], kv[:, 1], step.bias)


def attend_over(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """What ``query [B, H, T, D]`` hears in ``keys`` and ``values [B, KV, S, D]``; H is a multiple of KV."""
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=bias, enable_gqa=keys.shape[1] != query.shape[1]
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

    ring: Ring
    slot: int
    held: Tensor  # [S] places that hold something

    def attend(self, query: Tensor, kv: Tensor, step: RingStep) -> Tensor:
        """Write ``kv [1, T, 2, KV, D]``; what ``query [1, H, T, D]`` hears in what was held, and then in the new ones.

        The step's bias is over these S + T keys; T is at most the ring's capacity.
        """
        before = self.ring.read(self.slot, self.held)  # [2, KV, S, D]
        keys, values = torch.cat([before, kv[0].permute(1, 2, 0, 3)], dim=2)[:, None]  # [1, KV, S + T, D]
        self.ring.put(self.slot, step.index[0], kv[0])
        return attend_over(query, keys, values, step.bias)
