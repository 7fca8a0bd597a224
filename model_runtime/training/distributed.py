"""One process or several: where this one stands, and how a module is spread over all. Started by torchrun.

``ddp`` keeps the whole model in every process (torch's DistributedDataParallel), ``fsdp`` a part of every tensor
(``fully_shard``). Gradients are means over processes; what is lost is normalised by sums over them (``Task``).
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from model_runtime.training.tasks import Item, Task

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class Place:
    """Where this process stands."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def total(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all processes."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined(device: str) -> Iterator[Place]:
    """The place of this process; those that torchrun started meet each other, and part where they met."""
    where = torch.device(device)
    if where.type == "cuda" and dist.is_torchelastic_launched():
        where = torch.device("cuda", dist.get_node_local_rank())
    if dist.is_initialized():
        yield Place(where, dist.get_rank(), dist.get_world_size())
        return
    if not dist.is_torchelastic_launched():
        yield Place(where)
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Place(where, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def spread(task: Task[Item], place: Place, strategy: Strategy) -> nn.Module:
    """What to call instead of ``task``, whose parameters must be the same in every process."""
    if place.world == 1:
        return task
    if strategy == "ddp":
        # Buffers are the same everywhere (codebooks learn from sums over processes); the option's name is changing.
        names = inspect.signature(DistributedDataParallel).parameters
        quiet: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False
        }
        return DistributedDataParallel(task, **quiet)
    if not task.layers():
        raise ValueError("fsdp shards layers of a language model; a codec is trained with ddp")
    for layer in task.layers():
        fully_shard(layer)
    fully_shard(task)
    return task


@contextmanager
def without_sync(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Where ``wanted``, gradients are kept back until a later backward pass."""
    if not wanted:
        yield
    elif isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(False)
        yield
        module.set_requires_gradient_sync(True)
    else:
        yield


def whole(value: Tensor) -> Tensor:
    """A tensor that may be in parts, whole."""
    return value.full_tensor() if isinstance(value, DTensor) else value


_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
_SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)


def model_state(task: nn.Module) -> dict[str, Any]:
    """Trainable parameters and buffers, whole, on the CPU; where tensors are sharded, in the first process alone."""
    if isinstance(task, FSDPModule):
        return get_model_state_dict(task, options=_FULL)
    frozen = {name for name, each in task.named_parameters() if not each.requires_grad}
    return {name: tensor.cpu() for name, tensor in task.state_dict().items() if name not in frozen}


def load_model_state(task: nn.Module, state: dict[str, Any]) -> None:
    """Put ``model_state`` back; where tensors are sharded only the first process need have it."""
    if isinstance(task, FSDPModule):
        set_model_state_dict(task, state, options=_SPREAD)
        return
    missing, unexpected = task.load_state_dict(state, strict=False)
    frozen = {name for name, each in task.named_parameters() if not each.requires_grad}
    if unexpected or set(missing) - frozen:
        raise ValueError(f"unexpected {unexpected}, missing {sorted(set(missing) - frozen)}")


def optimizer_state(task: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state, whole."""
    if isinstance(task, FSDPModule):
        return get_optimizer_state_dict(task, optimizer, options=_FULL)
    return optimizer.state_dict()


def load_optimizer_state(task: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put ``optimizer_state`` back."""
    if isinstance(task, FSDPModule):
        set_optimizer_state_dict(task, optimizer, state, options=_SPREAD)
        return
    optimizer.load_state_dict(state)
