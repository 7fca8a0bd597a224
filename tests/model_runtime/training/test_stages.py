"""Every stage of ``configs``, with its own values, at toy size from end to end."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_runtime.checkpoint import load_language_model, load_mimi, load_moshi
from model_runtime.tiny import TOKENIZER
from model_runtime.training.batch import AudioBatch
from model_runtime.training.batches import Batches, BatchSettings, MixedBatches
from model_runtime.training.distributed import Place
from model_runtime.training.export import export_mimi, export_tokenizer, language_model_keys
from model_runtime.training.log import read_rows
from model_runtime.training.models import make_task
from model_runtime.training.sources import TextCrops
from model_runtime.training.stages import CONFIGS, ModelSettings, Stage, StageError, parse_stage, read_stage
from model_runtime.training.train_command import export, train
from model_runtime.training.trainer import Data
from tests.model_runtime.conftest import SMALL_LM, SMALL_MIMI
from tests.model_runtime.training.toys import ToySource, toy_audio, toy_batch

TOY_LM = replace(SMALL_LM, text_card=320)
STAGES = ("helium", "pre_training", "post_training", "fine_tuning", "instruct", "lora")
CODECS = ("mimi", "mimi_small")
EMBEDDED = ("mimi_small_decoder", "embedded_hearing", "embedded_listening", "embedded_dialogue")


def toy(stage: Stage, checkpoint: Path | None, **trainer: Any) -> Stage:
    """The stage with a small model and few steps; all else is its own."""
    shape: dict[str, Any] = language_model_keys(TOY_LM)
    shape["user_convolutions"] = stage.model.shape.get("user_convolutions", [])
    if stage.task == "mimi":
        shape = asdict(SMALL_MIMI)
        shape["seanet"]["ratios"] = list(shape["seanet"]["ratios"])
    lora = stage.model.lora and replace(stage.model.lora, rank=2)
    model = replace(stage.model, checkpoint=checkpoint and str(checkpoint), shape=shape, lora=lora, codebooks=8)
    if checkpoint is not None:
        model = replace(model, shape={})
    short = replace(stage.trainer, steps=3, save_every=2, held_out_every=2, held_out_batches=1, **trainer)
    mimi = replace(stage.mimi, discriminator_width=2, phones=3 if stage.mimi.phones else 0)
    mimi = replace(mimi, features=3 if stage.mimi.features else 0, codebooks=replace(mimi.codebooks, warmup=1))
    return replace(stage, model=model, trainer=short, mimi=mimi)


def open_toys(stage: Stage, place: Place) -> Data[Any]:
    """Toy data of the kinds that a stage's data section names."""

    def source(section: dict[str, Any]) -> Any:
        if "mix" in section:
            return MixedBatches([(each["share"], source(each)) for each in section["mix"]], seed=1)
        if section["kind"] == "text":
            text = np.arange(4, 300, dtype=np.int32)
            return Batches(
                TextCrops(text, TOY_LM.streams, 14), BatchSettings(2, 14, 1, rank=place.rank, processes=place.world)
            )
        if section["kind"] in ("audio", "speech"):
            return ToySource(lambda seed: audio(seed, "features" in section))
        return ToySource(lambda seed: toy_batch(TOY_LM, seed, size=2), place.rank, place.world)

    def audio(seed: int, features: bool) -> AudioBatch:
        batch = toy_audio(seed, frames=4)
        assert batch.labels is not None
        return AudioBatch(batch.audio, features=torch.randn(*batch.labels.shape, 3)) if features else batch

    return Data(source(dict(stage.data["train"])), lambda: source(dict(stage.data["held_out"])))


def test_the_papers_stages_follow_one_another(tmp_path: Path) -> None:
    """Each stage starts from what the one before exported, and the last, with a codec, answers calls."""
    checkpoint: Path | None = None
    for name in STAGES:
        stage = toy(read_stage(Path(name)), checkpoint)
        checkpoint = train(stage, tmp_path / name, open_toys)
        assert len(read_rows(tmp_path / name / "train.csv")) == 3
        assert len(read_rows(tmp_path / name / "held_out.csv")) == 2
        lm = load_language_model(checkpoint, "cpu", torch.float32)
        assert lm.config.delays[2] == (2 if name == "pre_training" else 1)
    assert checkpoint is not None
    codec = train(toy(read_stage(Path("mimi_small")), None), tmp_path / "mimi", open_toys)
    export_mimi(load_mimi(codec), checkpoint)
    export_tokenizer(TOKENIZER, checkpoint)
    moshi, _ = load_moshi(checkpoint, "cpu", torch.float32, 1)
    moshi.step(torch.zeros(1, 1, 1920), torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize("name", CODECS)
def test_codec_stages(tmp_path: Path, name: str) -> None:
    """A codec is trained with the stage's losses, and the runtime loads it."""
    codec = train(toy(read_stage(Path(name)), None), tmp_path, open_toys)
    assert load_mimi(codec).config == SMALL_MIMI
    columns = set(read_rows(tmp_path / "train.csv")[0])
    assert "distillation" in columns
    assert ("discriminator" in columns) == (name == "mimi")


def test_the_command_resumes_and_merges(tmp_path: Path) -> None:
    """A run that is there is not overwritten, goes on with ``resume``, and its adapters can be merged."""
    base = train(toy(read_stage(Path("helium")), None), tmp_path / "base", open_toys)
    stage = toy(read_stage(Path("lora")), base)
    train(stage, tmp_path / "run", open_toys)
    with pytest.raises(StageError, match="at step 3: resume it"):
        train(stage, tmp_path / "run", open_toys)
    longer = replace(stage, trainer=replace(stage.trainer, steps=5))
    separate = train(longer, tmp_path / "run", open_toys, resume=True)
    assert len(read_rows(tmp_path / "run" / "train.csv")) == 5
    merged = export(longer, tmp_path / "run", tmp_path / "merged", merge=True)
    loaded = [load_language_model(path, "cpu", torch.float32).state_dict() for path in (separate, merged)]
    for name, tensor in loaded[0].items():
        torch.testing.assert_close(loaded[1][name], tensor, rtol=0.02, atol=1e-3)  # merged in bfloat16
    assert json.loads((tmp_path / "run" / "stage.json").read_text())["name"] == "lora"


def test_faults_of_a_stage_are_named_by_place() -> None:
    """Unknown keys, missing ones and values of another type are all in one error."""
    keys = {
        "name": "x",
        "task": "singing",
        "optimizer": {"lr": "fast"},
        "trainer": {"step": 3},
        "mimi": {"codebooks": {"decay": []}},
    }
    with pytest.raises(StageError) as caught:
        parse_stage(keys, "x.yaml")
    for fault in (
        "task: one of 'language_model', 'mimi' is needed, got 'singing'",
        "optimizer.lr: float is needed, got 'fast'",
        "unknown key trainer.step",
        "trainer.steps is missing",
        "mimi.codebooks.decay: float is needed, got []",
    ):
        assert fault in str(caught.value)
    with pytest.raises(
        StageError, match="stages by name: embedded_dialogue, embedded_hearing, embedded_listening, fine_tuning, helium"
    ):
        read_stage(Path("nowhere"))


def test_all_stages_can_be_read() -> None:
    """The stages that come with Denwa name themselves by their files."""
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*STAGES, *CODECS, *EMBEDDED}
    for path in CONFIGS.glob("*.yaml"):
        assert read_stage(path).name == path.stem


def test_the_small_codec_has_its_size() -> None:
    """It is the 2.6 million parameters of the note that its stage cites."""
    task = make_task(replace(read_stage(Path("mimi_small"))))
    assert sum(each.numel() for each in task.mimi.parameters()) == pytest.approx(2.61e6, rel=0.05)  # type: ignore[union-attr,operator]
    assert ModelSettings().codebooks == 8
