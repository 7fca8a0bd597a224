"""Per-slot streaming state: what every streaming module of the runtime agrees on. Runs on the engine thread.

A state is a dataclass of tensors, lists and further states. Dimension 0 of every tensor is the slot, and all zeros
mean "fresh", so resetting a slot is zeroing its rows. Buffers are allocated once and only ever written in place, so
that a captured graph keeps seeing them. Execution masks are ``bool [B]``: rows where it is False stay as they are.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

State = TypeVar("State")


def slot_tensors(state: object) -> Iterator[Tensor]:
    """Every tensor of a state, depth first."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, list):
        for item in state:
            yield from slot_tensors(item)
    elif is_dataclass(state):
        for each in fields(state):
            yield from slot_tensors(getattr(state, each.name))


def reset_slot(state: object, slot: int) -> None:
    """Make one slot fresh; the caller before leaves nothing behind."""
    for tensor in slot_tensors(state):
        tensor[slot].zero_()


def first_rows(state: State, count: int) -> State:
    """The first ``count`` slots of a state, as views of the same memory."""
    if isinstance(state, Tensor):
        return state[:count]  # type: ignore[return-value]  # a tensor for a tensor
    if isinstance(state, list):
        return [first_rows(item, count) for item in state]  # type: ignore[return-value]  # a list of the same items
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{each.name: first_rows(getattr(state, each.name), count) for each in fields(state)})
    return state


def copy_slot(source: object, row: int, target: object, slot: int) -> None:
    """Make ``slot`` of ``target`` what ``row`` of ``source``, a state of the same shape, is.

    A source may be shorter, as a ring for a prompt is; it must not have gone round then.
    """
    pairs = zip(slot_tensors(source), slot_tensors(target), strict=True)
    for here, there in pairs:
        there[slot][tuple(slice(length) for length in here.shape[1:])] = here[row]


def write_where(buffer: Tensor, new: Tensor, mask: Tensor) -> None:
    """Overwrite the rows of ``buffer [B, ...]`` where ``mask [B]`` holds."""
    buffer.copy_(torch.where(mask.view(-1, *(1,) * (buffer.dim() - 1)), new, buffer))
