"""A run's snapshots: everything that decides how it goes on, in one folder per step. Owns the run's ``snapshots``."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from model_runtime.training.distributed import Place

_NAME: Final = re.compile(r"step-(\d+)")
_SHARED: Final = "shared.pt"


@dataclass(frozen=True)
class Snapshot:
    """One folder: ``shared.pt`` (model, optimizer) and a file per process (generators, place in the data)."""

    path: Path

    @property
    def step(self) -> int:
        """Steps done before it was taken."""
        match = _NAME.fullmatch(self.path.name)
        assert match is not None, self.path
        return int(match[1])

    def shared(self) -> dict[str, Any]:
        """What all processes have in common, on the CPU."""
        return _load(self.path / _SHARED)

    def own(self, place: Place) -> dict[str, Any]:
        """What is this process's; raises ``ValueError`` where the run had another number of processes."""
        count = len(list(self.path.glob("process-*.pt")))
        if count != place.world:
            raise ValueError(f"{self.path}: taken by {count} processes, cannot go on with {place.world}")
        return _load(self.path / f"process-{place.rank}.pt")


def snapshots(run: Path) -> list[Snapshot]:
    """The snapshots of a run, oldest first; half-written ones are none."""
    found = [Snapshot(path) for path in (run / "snapshots").glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda snapshot: snapshot.step)


def take(run: Path, step: int, shared: Mapping[str, Any], own: Mapping[str, Any], place: Place, keep: int) -> Snapshot:
    """Write a snapshot and drop all but the ``keep`` latest; it appears under its name once all of it is there."""
    path = run / "snapshots" / f"step-{step:08d}"
    beside = path.with_suffix(".partial")
    beside.mkdir(parents=True, exist_ok=True)
    torch.save(dict(own), beside / f"process-{place.rank}.pt")
    if place.rank == 0:
        torch.save(dict(shared), beside / _SHARED)
    place.wait()
    if place.rank == 0:
        if path.exists():
            shutil.rmtree(path)
        beside.rename(path)
        for old in snapshots(run)[:-keep]:
            shutil.rmtree(old.path)
    place.wait()
    return Snapshot(path)


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded
