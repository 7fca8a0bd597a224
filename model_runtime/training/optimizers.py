"""Optimizers over groups of parameters, and how their learning rates run. Runs in the training process.

Groups are those of the Moshi paper (arXiv 2410.00037, section 4.4 and table 1): the depth transformer has a learning
rate of its own. Gains, biases and tables of embeddings know no weight decay.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

_DEPTH: Final = ("depformer", "linears.")
_ASIDE: Final = ("discriminators.", "head.", "text_linear.", "linears.", "extra_heads.")
"""Output heads and parts of training alone, which Muon leaves to AdamW."""
_TABLES: Final = ("text_emb.", "emb.", "depformer_text_emb.", "depformer_emb.")


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer, and how fast each part learns."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 2e-6
    """Of the temporal transformer, its embeddings and the text head; of a codec all of it."""
    depth_lr: float | None = None
    """Of the depth transformer; None: ``lr``."""
    muon_lr: float = 0.02
    """Of matrices and kernels, where Muon is chosen; the others have ``lr`` and ``depth_lr``."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    schedule: Literal["constant", "cosine", "one_cycle"] = "one_cycle"
    warmup: float = 0.05
    """Part of the steps in which the learning rate rises."""
    floor: float = 0.0
    """Part of the learning rate that a cosine ends at."""


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The factor of every learning rate at ``step`` (from 0) of ``steps``.

    ``one_cycle`` is torch's OneCycleLR with its default divisors (25 at the start, 250,000 at the end), as in
    moshi-finetune; ``cosine`` rises linearly and falls to the floor; ``constant`` rises linearly and stays.
    """
    if settings.schedule == "one_cycle":
        top = settings.warmup * steps - 1
        if step <= top:
            return _between(1 / 25, 1.0, step / top if top > 0 else 1.0)
        return _between(1.0, 1 / 250_000, (step - top) / max(1.0, steps - 1 - top))
    rising = settings.warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if settings.schedule == "constant":
        return 1.0
    return _between(1.0, settings.floor, (step - rising) / max(1.0, steps - rising))


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + cos(pi * min(1.0, part)))


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Let every group learn at ``factor`` times its own rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of the parameters of ``module`` that require a gradient."""
    groups: dict[tuple[bool, bool, bool, int], list[Tensor]] = {}
    blocks = matrix_blocks(module)
    for path, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        name = path.removeprefix("module.").removeprefix("forcing.").removeprefix("lm.")
        matrix = parameter.dim() > 1 and sum(size > 1 for size in parameter.shape) > 1
        table = name.startswith(_TABLES)
        by_muon = settings.kind == "muon" and matrix and not table and not name.startswith(_ASIDE)
        key = (by_muon, name.startswith(_DEPTH), matrix and not table, blocks.get(path, 1) if by_muon else 1)
        groups.setdefault(key, []).append(parameter)
    made: list[dict[str, Any]] = []
    for (by_muon, depth, decays, parts), parameters in sorted(groups.items(), key=lambda each: each[0]):
        rate = settings.depth_lr if depth and settings.depth_lr is not None else settings.lr
        rate = settings.muon_lr if by_muon else rate
        decay = settings.weight_decay if decays else 0.0
        group = {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
        made.append({**group, "muon": by_muon, "blocks": parts} if settings.kind == "muon" else group)
    if settings.kind == "muon":
        return Muon(made, settings)
    return torch.optim.AdamW(made, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def matrix_blocks(module: nn.Module) -> dict[str, int]:
    """How many square-ish matrices are stacked in a fused one: queries, keys and values, and sets of depth steps."""
    found = {}
    for path, parameter in module.named_parameters():
        if path.endswith(("in_proj_weight", "self_attn.out_proj.weight")):
            rows, columns = parameter.shape
            found[path] = rows // columns if rows % columns == 0 else 1
    return found


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is made orthogonal; AdamW for groups whose ``muon`` is False.

    A kernel is a matrix ``[dim0, rest]``; a fused one is taken apart into ``blocks`` of rows. Five Newton-Schulz steps
    (Jordan et al. 2024, "Muon: an optimizer for hidden layers"), the update scaled by ``sqrt(max(1, rows / columns))``.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], settings: OptimizerSettings) -> None:
        super().__init__(list(groups), {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps})
        self._momentum = settings.momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["muon"]:
                    self._by_muon(parameter, group)
                else:
                    self._by_adam(parameter, group)

    def _by_muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(grad)
        state["momentum"].lerp_(grad, 1 - self._momentum)
        ahead = grad.lerp(state["momentum"], self._momentum)  # Nesterov's
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        if isinstance(ahead, DTensor):  # each process orthogonalises the whole and keeps its part
            whole = orthogonal(ahead.full_tensor(), group["blocks"])
            update = distribute_tensor(whole, ahead.device_mesh, ahead.placements)
            parameter.add_(update, alpha=-group["lr"])
        else:
            parameter.add_(orthogonal(ahead, group["blocks"]), alpha=-group["lr"])

    def _by_adam(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if "step" not in state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
        state["step"] += 1
        first, second = group["betas"]
        state["mean"].lerp_(grad, 1 - first)
        state["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
        steps = float(state["step"])
        spread = (state["square"] / (1 - second**steps)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - first**steps))


def orthogonal(update: Tensor, blocks: int = 1) -> Tensor:
    """The nearest orthogonal matrix to each of the ``blocks`` of ``update [dim0, ...]``, roughly; same shape and type.

    Singular values come out between about 0.7 and 1.2. Computed in bfloat16 on a GPU; on a CPU, where few can multiply
    that and the others take nine times as long for it as for float32, in float32.
    """
    x = update.reshape(blocks, update.shape[0] // blocks, -1)  # [N, rows, columns]
    x = x.bfloat16() if x.device.type == "cuda" else x.float()
    rows, columns = x.shape[1:]
    if rows > columns:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    if rows > columns:
        x = x.mT
    scaled: Tensor = x * max(1.0, rows / columns) ** 0.5
    return scaled.reshape(update.shape).to(update.dtype)


def trainable(module: nn.Module) -> Iterator[Tensor]:
    """The parameters that require a gradient."""
    return (parameter for parameter in module.parameters() if parameter.requires_grad)
