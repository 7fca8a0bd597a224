"""The trainer: batches in, steps of an optimizer out; it can be stopped anywhere and goes on from its last snapshot.

A resumed run makes the same numbers as one that was never stopped (on the CPU bit for bit). Runs in the training
process, one of them per device.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any, Generic, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from model_runtime.errors import LocalModelError
from model_runtime.training.batch import BatchSource
from model_runtime.training.distributed import (
    Place,
    Strategy,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
    spread,
    whole,
    without_sync,
)
from model_runtime.training.log import CsvLog, Progress
from model_runtime.training.optimizers import (
    OptimizerSettings,
    learning_rate,
    make_optimizer,
    set_learning_rates,
    trainable,
)
from model_runtime.training.snapshots import Snapshot, take
from model_runtime.training.tasks import Item, Task


class Movable(Protocol):
    """A batch that can be put on a device."""

    def to(self, device: torch.device) -> Any:
        """The same on a device."""


class TrainingDiverged(LocalModelError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class TrainerSettings:
    """How long, how large, how exact, and what is kept."""

    steps: int
    accumulation: int = 1
    """Batches of one step, in each process."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: any."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of activations (autocast); what is trained stays as it is."""
    seed: int = 0
    save_every: int = 500
    keep: int = 2
    """Snapshots, besides which none stay."""
    held_out_every: int = 100
    held_out_batches: int = 8
    sample_every: int = 0
    """0: never."""


@dataclass(frozen=True)
class Data(Generic[Item]):
    """Where a run's batches come from."""

    train: BatchSource[Item]
    held_out: Callable[[], BatchSource[Item]] | None = None
    """Makes a source that yields the same batches each time."""


class Trainer(Generic[Item]):
    """One run in one folder: ``train.csv``, ``held_out.csv``, ``snapshots``."""

    def __init__(
        self,
        task: Task[Item],
        data: Data[Item],
        settings: TrainerSettings,
        optimizer: OptimizerSettings,
        folder: Path,
        place: Place,
        strategy: Strategy = "ddp",
    ) -> None:
        self.task = task.to(place.device).train()
        self.step = 0
        self._data = data
        self._settings = settings
        self._rates = optimizer
        self._folder = folder
        self._place = place
        self._module = spread(task, place, strategy)
        self._optimizer = make_optimizer(task, optimizer)
        self._random = torch.Generator().manual_seed(settings.seed * 1000 + place.rank)

    def resume(self, snapshot: Snapshot) -> None:
        """Go to where a snapshot was taken."""
        shared, own = snapshot.shared(), snapshot.own(self._place)
        load_model_state(self.task, shared["model"])
        load_optimizer_state(self.task, self._optimizer, shared["optimizer"])
        self._random.set_state(own["random"])
        self._data.train.load_state_dict(own["data"])
        self.step = snapshot.step

    def save(self) -> Snapshot:
        """Take a snapshot."""
        shared = {"model": model_state(self.task), "optimizer": optimizer_state(self.task, self._optimizer)}
        own = {"random": self._random.get_state(), "data": self._data.train.state_dict()}
        return take(self._folder, self.step, shared, own, self._place, self._settings.keep)

    def run(self, sample: Callable[[int], str] | None = None, until: int | None = None) -> None:
        """Train to the last step, or to step ``until``; ``sample`` tells what the model can do by now.

        Raises ``TrainingDiverged``.
        """
        settings, first = self._settings, self._place.rank == 0
        last = settings.steps if until is None else min(until, settings.steps)
        logs = [CsvLog(self._folder / name, self.step) for name in ("train.csv", "held_out.csv")] if first else []
        progress = Progress(self.step, settings.steps, shown=first)
        batches = iter(self._data.train)
        started = monotonic()
        try:
            while self.step < last:
                values = self._one_step(batches)
                self.step += 1
                progress.step(self.step, values)
                if logs:
                    logs[0].add(self.step, {**values, "seconds": monotonic() - started})
                if self._due(settings.held_out_every) and self._data.held_out is not None:
                    held_out = self.evaluate()
                    progress.say(f"step {self.step}, held out: {held_out}")
                    if logs:
                        logs[1].add(self.step, held_out)
                if sample is not None and settings.sample_every and self.step % settings.sample_every == 0 and first:
                    progress.say(f"step {self.step}, sample: {self._sampled(sample)}")
                if self._due(settings.save_every):
                    self.save()
        finally:
            progress.close()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The losses over the held-out batches."""
        assert self._data.held_out is not None
        random = torch.Generator().manual_seed(self._settings.seed)
        self.task.eval()
        batches = iter(self._data.held_out())
        prepared = [self._prepared(batches, random) for _ in range(self._settings.held_out_batches)]
        norms = self._norms(prepared)
        summed: dict[str, Tensor] = {}
        for batch in prepared:
            with self._precision():
                _add(summed, self._module(batch, norms, random))
        self.task.train()
        return self._means(summed)

    def _one_step(self, batches: Iterator[Item]) -> dict[str, float]:
        """Losses, gradient norm and learning rate of one step."""
        settings = self._settings
        factor = learning_rate(self._rates, self.step, settings.steps)
        set_learning_rates(self._optimizer, factor)
        prepared = [self._prepared(batches, self._random) for _ in range(settings.accumulation)]
        norms = self._norms(prepared)
        summed: dict[str, Tensor] = {}
        for number, batch in enumerate(prepared):
            with without_sync(self._module, number + 1 < len(prepared)):
                with self._precision():
                    losses = self._module(batch, norms, self._random)
                losses["loss"].backward()
            _add(summed, losses)
        norm = whole(clip_grad_norm_(list(trainable(self.task)), settings.clip or float("inf")))
        values = self._means(summed)
        if not (isfinite(values["loss"]) and norm.isfinite()):
            raise TrainingDiverged(f"step {self.step + 1}: {values}, gradient norm {float(norm):.3g}")
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {**values, "gradient": float(norm), "lr": self._rates.lr * factor}

    def _prepared(self, batches: Iterator[Item], random: torch.Generator) -> Item:
        batch: Any = next(batches)
        prepared: Item = self.task.prepare(batch.to(self._place.device), random)
        return prepared

    def _norms(self, batches: list[Item]) -> Tensor:
        """Sums of weights over the step's batches, per process: gradients are means over processes."""
        total = self._place.total(torch.stack([self.task.weigh(batch) for batch in batches]).sum(0))
        return total / self._place.world

    def _means(self, summed: Mapping[str, Tensor]) -> dict[str, float]:
        """Losses over all processes as numbers."""
        stacked = torch.stack([value.double() for value in summed.values()])
        means = self._place.total(stacked) / self._place.world
        return dict(zip(summed, means.tolist(), strict=True))

    def _precision(self) -> torch.autocast:
        enabled = self._settings.precision == "bfloat16"
        return torch.autocast(self._place.device.type, torch.bfloat16, enabled=enabled)

    def _due(self, every: int) -> bool:
        return self.step == self._settings.steps or (every > 0 and self.step % every == 0)

    def _sampled(self, sample: Callable[[int], str]) -> str:
        self.task.eval()
        try:
            with torch.no_grad():
                return sample(self.step)
        finally:
            self.task.train()


def _add(summed: dict[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    for name, value in losses.items():
        summed[name] = summed[name] + value.detach() if name in summed else value.detach()
