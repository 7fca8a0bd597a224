from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_runtime.checkpoint import load_language_model
from model_runtime.errors import CheckpointError
from model_runtime.training.batch import Batch
from model_runtime.training.batches import HeardBatch
from model_runtime.training.distributed import Place
from model_runtime.training.export import language_model_keys
from model_runtime.training.listening import ListeningSettings, ListeningTask
from model_runtime.training.log import read_rows
from model_runtime.training.models import make_task
from model_runtime.training.optimizers import OptimizerSettings
from model_runtime.training.stages import ModelSettings, Stage
from model_runtime.training.train_command import train
from model_runtime.training.trainer import Data, TrainerSettings
from tests.model_runtime.conftest import SMALL_LM
from tests.model_runtime.training.toys import ToySource, toy_batch

STAGE = Stage(
    name="listening",
    task="language_model",
    optimizer=OptimizerSettings(lr=1e-2, schedule="constant"),
    trainer=TrainerSettings(steps=25, held_out_every=0),
    model=ModelSettings(shape=language_model_keys(SMALL_LM)),
    listening=ListeningSettings(words=64, intents=4),
)


def heard(seed: int, tokens: bool = True) -> HeardBatch:
    """A batch in which the word that is heard is the caller's semantic code of the frame before."""
    batch = toy_batch(SMALL_LM, seed)
    labels = torch.full_like(batch.tokens[:, 0], -1)
    labels[:, 1:] = batch.tokens[:, 9, :-1]
    return HeardBatch(batch.tokens, batch.loss_mask * tokens, heard=labels, meant=labels % 4)


def test_what_is_heard_can_be_told_from_what_came_before(tmp_path: Path) -> None:
    """Both heads learn even where no token counts, and the export has neither of them."""

    def data(stage: Stage, place: Place) -> Data[HeardBatch]:
        return Data(ToySource(lambda seed: heard(seed, tokens=False)))

    exported = train(STAGE, tmp_path, data)
    rows = read_rows(tmp_path / "train.csv")
    for name in ("heard", "meant"):
        assert float(rows[-1][name]) < 0.3 * float(rows[0][name])
        assert float(rows[0][f"{name}_right"]) < 0.5 < float(rows[-1][f"{name}_right"]) <= 1
        assert float(rows[-1]["text"]) == 0
    load_language_model(exported)


def test_batches_without_labels_count_as_before() -> None:
    """Recorded calls, in which nobody tells what was wanted, have the loss of the plain task."""
    plain, listening = make_task(replace(STAGE, listening=None)), make_task(STAGE)
    batch = toy_batch(SMALL_LM, 1)
    random = torch.Generator()
    losses = [task(batch, task.weigh(batch), random)["loss"] for task in (plain, listening)]
    assert isinstance(batch, Batch)
    torch.testing.assert_close(losses[0], losses[1])


def test_the_caller_alone_is_heard_first(tmp_path: Path) -> None:
    """Heads before the temporal transformer learn through the caller's convolutions; nothing else moves."""
    shape = {**language_model_keys(SMALL_LM), "user_convolutions": [1, 2]}
    caller = ListeningSettings(words=64, intents=4, at="caller")
    stage = replace(STAGE, model=ModelSettings(shape=shape), listening=caller)
    task = make_task(stage)
    assert isinstance(task, ListeningTask)
    before = {name: each.clone() for name, each in task.lm.state_dict().items()}

    def data(stage: Stage, place: Place) -> Data[HeardBatch]:
        return Data(ToySource(lambda seed: heard(seed, tokens=False)))

    exported = train(stage, tmp_path, data)
    rows = read_rows(tmp_path / "train.csv")
    assert float(rows[-1]["heard"]) < 0.3 * float(rows[0]["heard"])
    after = load_language_model(exported, "cpu", torch.float32).state_dict()
    moved = {name for name, each in after.items() if not torch.equal(each, before[name])}
    assert {name.split(".")[0] for name in moved} == {"emb", "user_convolutions"}
    assert {int(name.split(".")[1]) for name in moved if name.startswith("emb")} <= set(range(8, 16))


def test_heads_go_on_in_the_next_stage(tmp_path: Path) -> None:
    """The export has them; a stage that begins with them hears as well at once; one that does not fit is told."""

    def data(stage: Stage, place: Place) -> Data[HeardBatch]:
        return Data(ToySource(lambda seed: heard(seed, tokens=False)))

    exported = train(STAGE, tmp_path, data)
    last = float(read_rows(tmp_path / "train.csv")[-1]["heard"])
    begun = ListeningSettings(words=64, intents=4, begin=str(exported))
    stage = replace(STAGE, model=ModelSettings(checkpoint=str(exported)), listening=begun)
    task, batch = make_task(stage), heard(3, tokens=False)
    assert float(task(batch, task.weigh(batch), torch.Generator())["heard"]) < 2 * last + 0.1
    with pytest.raises(CheckpointError, match="no heads for these words and intents"):
        make_task(replace(stage, listening=replace(begun, words=65)))
