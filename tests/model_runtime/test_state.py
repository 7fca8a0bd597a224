from dataclasses import dataclass

import torch
from torch import Tensor

from model_runtime.state import reset_slot, slot_tensors, write_where


@dataclass
class Leaf:
    kept: Tensor


@dataclass
class Tree:
    flag: Tensor
    leaves: list[Leaf]


def test_reset_reaches_every_tensor_of_one_slot() -> None:
    """Resetting zeroes the slot's row in every tensor, however deep, and no other row."""
    tree = Tree(torch.ones(3, dtype=torch.bool), [Leaf(torch.ones(3, 2)), Leaf(torch.ones(3, 1, 4))])
    reset_slot(tree, 1)
    assert len(list(slot_tensors(tree))) == 3
    for tensor in slot_tensors(tree):
        assert not tensor[1].any()
        assert tensor[0].all()
        assert tensor[2].all()


def test_write_where_works_in_place() -> None:
    """Masked rows are overwritten in the same memory, the others keep their bits, NaN in the new rows included."""
    buffer = torch.zeros(2, 3)
    where = buffer.data_ptr()
    write_where(buffer, torch.tensor([[1.0] * 3, [float("nan")] * 3]), torch.tensor([True, False]))
    assert buffer.tolist() == [[1.0] * 3, [0.0] * 3]
    assert buffer.data_ptr() == where
