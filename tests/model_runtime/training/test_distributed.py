"""Two processes on one machine (gloo), started as a user starts them: with torchrun."""

import os
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest
import torch

from model_runtime.checkpoint import load_language_model, load_mimi
from model_runtime.training.distributed import Place
from model_runtime.training.log import read_rows
from model_runtime.training.snapshots import snapshots
from model_runtime.training.train_command import train
from tests.model_runtime.training.two_processes import RUNS, shares, stage

ROOT = Path(__file__).parents[3]
FLOAT_NOISE = {"adamw": 2e-3, "muon": 1e-2}
"""Adam divides by what may be next to nothing; Muon orthogonalises in bfloat16."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.model_runtime.training.two_processes", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def losses(run: Path, name: str = "train.csv") -> list[float]:
    """The trajectory of a run."""
    return [float(row["loss"]) for row in read_rows(run / name)]


@pytest.mark.parametrize(("strategy", "kind"), RUNS[:3])
def test_two_processes_are_a_doubled_batch(tmp_path: Path, runs: Path, strategy: str, kind: str) -> None:
    """Losses and the exported weights are those of one process with both batches in one, though their masks differ."""
    two = runs / f"{strategy}-{kind}"
    alone = train(stage("ddp", kind), tmp_path, shares(kind))
    near = 1e-4 if kind == "adamw" else 1e-3
    assert losses(two) == pytest.approx(losses(tmp_path), rel=near)
    assert losses(two, "held_out.csv") == pytest.approx(losses(tmp_path, "held_out.csv"), rel=10 * near)
    expected = load_language_model(alone, "cpu", torch.float32).state_dict()
    found = load_language_model(two / "export", "cpu", torch.float32).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=FLOAT_NOISE[kind])


def test_fsdp_resumes(runs: Path) -> None:
    """Resumed halfway, each process with its part of every tensor, a run ends where it would have."""
    assert losses(runs / "fsdp-resumed") == losses(runs / "fsdp-adamw")
    whole, again = (snapshots(runs / name)[-1].shared()["model"] for name in ("fsdp-adamw", "fsdp-resumed"))
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_adapters_are_sharded_beside_their_base(tmp_path: Path, runs: Path) -> None:
    """Float32 adapters on a bfloat16 base, with autocast and checkpointing, learn in parts as they do in one piece."""
    train(stage("ddp", "lora"), tmp_path, shares("lora"))
    assert losses(runs / "fsdp-lora") == pytest.approx(losses(tmp_path), rel=5e-3)
    ours, alone = (snapshots(run)[-1].shared()["model"] for run in (runs / "fsdp-lora", tmp_path))
    assert set(ours) == set(alone)
    assert all("lora" in name for name in ours)
    for name, tensor in alone.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-3)


def test_codecs_learn_from_both(runs: Path) -> None:
    """Codebooks follow what both processes have coded, and the runtime loads them."""
    mimi = load_mimi(runs / "ddp-mimi" / "export")
    usage = mimi.quantizer.rvq_first.codebooks[0].cluster_usage
    assert float(usage.sum()) == pytest.approx(2 * 2 * 4, rel=0.2)  # processes, recordings, frames
    assert all(map(isfinite, losses(runs / "ddp-mimi")))


def test_another_number_of_processes_is_refused(runs: Path) -> None:
    """One process cannot go on with the data of two."""
    with pytest.raises(ValueError, match="taken by 2 processes, cannot go on with 1"):
        snapshots(runs / "ddp-adamw")[-1].own(Place(torch.device("cpu")))
