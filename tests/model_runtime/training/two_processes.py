"""What the distributed tests start with torchrun: ``two_processes.py FOLDER`` trains toy stages, a folder for each."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model_runtime.checkpoint.config_file import LoraConfig
from model_runtime.training.batch import AudioBatch, Batch
from model_runtime.training.distributed import Place, joined
from model_runtime.training.export import language_model_keys
from model_runtime.training.optimizers import OptimizerSettings
from model_runtime.training.snapshots import snapshots
from model_runtime.training.stages import ModelSettings, Stage, read_stage
from model_runtime.training.tasks import LanguageModelTaskSettings
from model_runtime.training.train_command import train
from model_runtime.training.trainer import Data, TrainerSettings
from tests.model_runtime.conftest import SMALL_LM
from tests.model_runtime.training.test_stages import toy
from tests.model_runtime.training.toys import ToySource, toy_audio, toy_batch

RUNS = (("ddp", "adamw"), ("fsdp", "adamw"), ("fsdp", "muon"), ("ddp", "mimi"), ("fsdp", "lora"))
SHORT = TrainerSettings(steps=4, accumulation=2, save_every=2, held_out_every=4, held_out_batches=1)


def stage(strategy: str, kind: str) -> Stage:
    """A small language model, or a small codec where ``kind`` is ``mimi``."""
    if kind == "mimi":
        small = toy(read_stage(Path("mimi_small")), None)
        codebooks = replace(small.mimi.codebooks, warmup=0)
        quiet = replace(small.mimi, codebooks=codebooks)
        return replace(small, mimi=quiet, trainer=replace(SHORT, clip=5.0))
    lora = LoraConfig(4, 2.0) if kind == "lora" else None
    optimizer = "muon" if kind == "muon" else "adamw"
    return Stage(
        name="toy",
        task="language_model",
        model=ModelSettings(shape=language_model_keys(SMALL_LM), lora=lora, dtype="bfloat16" if lora else "float32"),
        optimizer=OptimizerSettings(kind=optimizer, lr=1e-3, eps=1e-5, schedule="cosine"),  # type: ignore[arg-type]
        trainer=replace(SHORT, precision="bfloat16" if lora else "float32"),
        language_model=LanguageModelTaskSettings(gradient_checkpointing=lora is not None),
        strategy=strategy,  # type: ignore[arg-type]
    )


def shares(kind: str) -> Any:
    """Opens each process's share of the data; one process alone has both shares in each batch."""

    def both(seed: int) -> Batch:
        pair = [toy_batch(SMALL_LM, 2 * seed + k, size=2) for k in range(2)]
        return Batch(*(torch.cat([getattr(each, name) for each in pair]) for name in ("tokens", "loss_mask")))

    def both_audio(seed: int) -> AudioBatch:
        return AudioBatch(*(torch.cat(each) for each in zip(*map(parts, (2 * seed, 2 * seed + 1)), strict=True)))

    def parts(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = toy_audio(seed, frames=4)
        assert batch.labels is not None
        return batch.audio, batch.labels

    def open_shares(_: Stage, place: Place) -> Data[Any]:
        def source() -> Any:
            if kind == "mimi":
                return (
                    ToySource(lambda seed: toy_audio(seed, frames=4), place.rank, 2)
                    if place.world > 1
                    else ToySource(both_audio)
                )
            if place.world == 1:
                return ToySource(both)
            return ToySource(lambda seed: toy_batch(SMALL_LM, seed, size=2), place.rank, place.world)

        return Data(source(), source)

    return open_shares


def halfway(whole: Path, again: Path) -> None:
    """Make ``again`` what ``whole`` was when its first half was done."""
    shutil.copytree(whole, again)
    shutil.rmtree(snapshots(again)[-1].path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    with joined("cpu") as place:
        for strategy, kind in RUNS:
            train(stage(strategy, kind), root / f"{strategy}-{kind}", shares(kind))
        if place.rank == 0:
            halfway(root / "fsdp-adamw", root / "fsdp-resumed")
        place.wait()
        train(stage("fsdp", "adamw"), root / "fsdp-resumed", shares("adamw"), resume=True)
