from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from model_runtime.checkpoint import load_language_model
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.training.distributed import Place
from model_runtime.training.export import export_mimi, language_model_keys
from model_runtime.training.models import new_language_model
from model_runtime.training.optimizers import OptimizerSettings
from model_runtime.training.projected import project_codebooks, settle_tables
from model_runtime.training.stages import ModelSettings, Stage
from model_runtime.training.train_command import train
from model_runtime.training.trainer import Data, TrainerSettings
from tests.model_runtime.conftest import SMALL_LM, SMALL_MIMI
from tests.model_runtime.training.toys import ToySource, toy_batch

CONFIG = replace(SMALL_LM, card=SMALL_MIMI.bins)


@pytest.fixture
def lm(small_mimi: Mimi) -> LanguageModel:
    """A new model with projected embeddings."""
    random = torch.Generator().manual_seed(1)
    made = new_language_model(CONFIG, random)
    project_codebooks(made, small_mimi, random)
    return made


def tables(lm: LanguageModel) -> list[torch.Tensor]:
    """The caller's."""
    return [cast(nn.Embedding, table).weight.detach().clone() for table in lm.emb[8:]]


def test_codes_that_are_alike_begin_alike(lm: LanguageModel, small_mimi: Mimi) -> None:
    """Distances between centroids are those between embeddings, roughly, up to a scale."""
    centroids = small_mimi.quantizer.rvq_first.codebooks[0].centroids
    far, found = torch.pdist(centroids), torch.pdist(tables(lm)[0][:-1])
    assert torch.corrcoef(torch.stack([far, found]))[0, 1] > 0.8


def test_a_projection_is_found_again_from_its_tables(lm: LanguageModel, small_mimi: Mimi) -> None:
    """What one stage has learnt and exported, as ordinary tables, the next one goes on with."""
    before = tables(lm)
    names = set(LanguageModel(CONFIG).state_dict())
    assert set(settle_tables(lm).state_dict()) == names
    project_codebooks(lm, small_mimi, None)
    for was, now in zip(before, tables(lm), strict=True):
        torch.testing.assert_close(now, was, atol=1e-4, rtol=1e-3)


def test_only_projections_learn(tmp_path: Path, small_mimi: Mimi) -> None:
    """A stage trains them, its snapshot goes on, and the export is an ordinary model whose tables are projections."""
    codec = export_mimi(small_mimi, tmp_path / "codec")
    stage = Stage(
        name="projected",
        task="language_model",
        optimizer=OptimizerSettings(lr=1e-2, schedule="constant"),
        trainer=TrainerSettings(steps=2, held_out_every=0, save_every=1),
        model=ModelSettings(
            shape=language_model_keys(CONFIG), user_embeddings_from=str(codec), user_embeddings="projected"
        ),
    )

    def data(stage: Stage, place: Place) -> Data[Any]:
        return Data(ToySource(lambda seed: toy_batch(CONFIG, seed)))

    train(stage, tmp_path / "run", data)
    longer = replace(stage, trainer=replace(stage.trainer, steps=4))
    exported = load_language_model(train(longer, tmp_path / "run", data, resume=True), "cpu", torch.float32)
    vectors = small_mimi.quantizer.rvq_first.codebooks[0].centroids
    vectors = vectors - vectors.mean(0)
    rows = cast(nn.Embedding, exported.emb[8]).weight[:-1]
    again = vectors @ torch.linalg.lstsq(vectors, rows).solution
    torch.testing.assert_close(again, rows, atol=1e-4, rtol=1e-3)
