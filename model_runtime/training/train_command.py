"""What ``denwa train`` does: a stage's file, somewhere to keep the run, and where its data comes from.

Each function is a subcommand without its arguments' parsing. Under torchrun every process calls it alike.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from model_runtime.training.distributed import Place, joined, load_model_state
from model_runtime.training.log import plot
from model_runtime.training.models import export_task, make_task
from model_runtime.training.opening import open_data
from model_runtime.training.samples import sampler
from model_runtime.training.snapshots import snapshots
from model_runtime.training.stages import Stage, StageError, read_stage
from model_runtime.training.trainer import Data, Trainer

_LOG: Final = logging.getLogger(__name__)

OpenData = Callable[[Stage, Place], Data[Any]]
"""Opens what a stage's ``data`` names, this process's share of it; raises ``DataError`` or ``StageError``."""


def train(
    stage: Stage | Path,
    run: Path,
    data: OpenData = open_data,
    *,
    resume: bool = False,
    device: str = "cpu",
) -> Path:
    """Train a stage to its end in the folder ``run`` and return its ``export``, a checkpoint.

    ``resume`` goes on from the last snapshot, if there is one. Raises ``StageError``, ``CheckpointError``,
    ``TrainingDiverged``, and what ``data`` raises.
    """
    stage = stage if isinstance(stage, Stage) else read_stage(stage)
    with joined(device) as place:
        taken = snapshots(run)
        if taken and not resume:
            raise StageError(f"{run}: there is a run already, at step {taken[-1].step}: resume it, or name another")
        task, opened = make_task(stage), data(stage, place)
        trainer = Trainer(task, opened, stage.trainer, stage.optimizer, run, place, stage.strategy)
        if taken:
            trainer.resume(taken[-1])
        if place.rank == 0:
            run.mkdir(parents=True, exist_ok=True)
            (run / "stage.json").write_text(json.dumps(asdict(stage), indent=2) + "\n")
        sharded = place.world > 1 and stage.strategy == "fsdp"  # one process alone cannot step a part of a model
        wanted = stage.trainer.sample_every and not sharded and place.rank == 0
        trainer.run(sampler(stage, task, opened, run) if wanted else None)
        place.wait()
        if place.rank == 0:
            export(stage, run, run / "export")
            try:
                plot(run)
            except RuntimeError as error:
                _LOG.warning("%s", error)
        place.wait()
    return run / "export"


def export(stage: Stage | Path, run: Path, folder: Path, *, merge: bool = False) -> Path:
    """Write the last snapshot of ``run`` as a checkpoint that the runtime loads; ``merge`` adapters into their model.

    Raises ``StageError`` where there is no snapshot.
    """
    stage = stage if isinstance(stage, Stage) else read_stage(stage)
    taken = snapshots(run)
    if not taken:
        raise StageError(f"{run}: there is no snapshot of a run")
    task = make_task(stage)
    load_model_state(task, taken[-1].shared()["model"])
    return export_task(task.eval(), stage, folder, merge=merge)
