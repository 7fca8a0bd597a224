import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.batch import Batch
from model_runtime.training.distributed import Place
from model_runtime.training.log import CsvLog, plot, read_rows
from model_runtime.training.optimizers import OptimizerSettings
from model_runtime.training.snapshots import snapshots
from model_runtime.training.tasks import LanguageModelTask, LanguageModelTaskSettings
from model_runtime.training.trainer import Data, Trainer, TrainerSettings, TrainingDiverged
from tests.model_runtime.conftest import SMALL_LM, randomise
from tests.model_runtime.training.toys import ToySource, toy_batch

STEPS = 6
HERE = Place(torch.device("cpu"))
RATES = OptimizerSettings(lr=3e-3, schedule="cosine")


def trainer(
    folder: Path, kind: str = "adamw", size: int = 2, task: Mapping[str, Any] | None = None, **settings: Any
) -> Trainer[Batch]:
    """A run of a small model."""
    lm = LanguageModel(SMALL_LM)
    randomise(lm, 1)
    chosen = {"steps": STEPS, "held_out_batches": 2, "held_out_every": 3, "save_every": 2} | settings

    def make(seed: int) -> Batch:
        return toy_batch(SMALL_LM, seed, size=size)

    data = Data(ToySource(make), lambda: ToySource(make))
    rates = OptimizerSettings(kind=kind, lr=3e-3, schedule="cosine")  # type: ignore[arg-type]
    return Trainer(
        LanguageModelTask(lm, LanguageModelTaskSettings(**(task or {}))),
        data,
        TrainerSettings(**chosen),
        rates,
        folder,
        HERE,
    )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_resumed_equals_uninterrupted(tmp_path: Path, kind: str) -> None:
    """Stopped after step 3 and resumed from the snapshot of step 2, a run ends with the same bits, and the same log."""
    task = {"depth_share": 0.5}
    whole = trainer(tmp_path / "whole", kind, task=task)
    whole.run()
    trainer(tmp_path / "parts", kind, task=task).run(until=3)
    again = trainer(tmp_path / "parts", kind, task=task)
    snapshot = snapshots(tmp_path / "parts")[-1]
    assert snapshot.step == 2
    again.resume(snapshot)
    again.run()
    expected = whole.task.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.task.state_dict().items())
    logs = [read_rows(tmp_path / name / "train.csv") for name in ("whole", "parts")]
    assert len(logs[0]) == STEPS
    for one, other in zip(*logs, strict=True):
        del one["seconds"], other["seconds"]
        assert one == other


def test_the_loss_falls_and_is_logged(tmp_path: Path) -> None:
    """A small model learns the toy dialogues; rows hold losses, gradient and rate, and old snapshots go."""
    run = trainer(tmp_path, steps=30, held_out_every=10, save_every=10, keep=1, clip=0.5)
    run.run()
    rows = read_rows(tmp_path / "train.csv")
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert set(rows[0]) == {"step", "loss", "text", "audio", "gradient", "lr", "seconds"}
    held_out = [float(row["loss"]) for row in read_rows(tmp_path / "held_out.csv")]
    assert len(held_out) == 3
    assert held_out[-1] < held_out[0]
    assert [snapshot.step for snapshot in snapshots(tmp_path)] == [30]


def test_accumulation_is_a_larger_batch(tmp_path: Path) -> None:
    """Three batches of two per step make the step of one batch of six, whatever their masks weigh."""
    one, three = trainer(tmp_path / "one", steps=2), trainer(tmp_path / "three", steps=2, accumulation=3)

    def six(seed: int) -> Batch:
        parts = [toy_batch(SMALL_LM, 3 * seed + k, size=2) for k in range(3)]
        return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "loss_mask")))

    one._data = Data(ToySource(six))
    three._data = Data(three._data.train)
    one.run()
    three.run()
    for name, tensor in one.task.state_dict().items():
        torch.testing.assert_close(three.task.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"task": {"gradient_checkpointing": True}}])
def test_cheaper_arithmetic_learns_alike(tmp_path: Path, settings: dict[str, Any]) -> None:
    """With bfloat16 autocast, or activations computed again, losses stay those of plain float32."""
    trainer(tmp_path / "plain").run()
    trainer(tmp_path / "cheap", **settings).run()
    losses = [[float(row["loss"]) for row in read_rows(tmp_path / name / "train.csv")] for name in ("plain", "cheap")]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_one_stream_of_audio(tmp_path: Path) -> None:
    """In pre-training nothing of the caller is heard: its codes do not change the loss."""
    run = trainer(tmp_path, task={"user_stream": False})
    batch = toy_batch(SMALL_LM, 1)
    changed = Batch(batch.tokens.clone(), batch.loss_mask)
    changed.tokens[:, 9:] = 5
    prepared = [run.task.prepare(each, torch.Generator()) for each in (batch, changed)]
    assert torch.equal(prepared[0].tokens, prepared[1].tokens)
    assert (prepared[0].tokens[:, 9:] == -1).all()


def test_samples_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bar shows losses and what the model says by now."""
    trainer(tmp_path, sample_every=2).run(lambda step: f"hello {step}")
    shown = capsys.readouterr().err
    assert "step 2, sample: hello 2" in shown
    assert "audio" in shown


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    """The weights stay what they were before the step that went wrong."""
    run = trainer(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.task.state_dict().items()}
    run.task.forward = lambda *_: {"loss": run.task.lm.text_linear.weight.sum() * float("nan")}  # type: ignore
    with pytest.raises(TrainingDiverged, match="step 1"):
        run.run()
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.task.state_dict().items())


def test_plots_name_the_package_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib the message says what to install; with it there is a picture."""
    CsvLog(tmp_path / "train.csv").add(1, {"loss": 2.0})
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(RuntimeError, match=r"denwa\[train\]"):
        plot(tmp_path)


def test_without_tqdm_there_are_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where tqdm is missing the log has the losses."""
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    with caplog.at_level(logging.INFO):
        trainer(tmp_path).run(until=1)
    assert "step 1 of 6: loss" in caplog.text
