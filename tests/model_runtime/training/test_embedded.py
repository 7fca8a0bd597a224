"""From nothing to a checkpoint that answers calls, at toy size."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest
import torch

from model_runtime.checkpoint import load_moshi
from model_runtime.text import PAD
from model_runtime.training.chain import ChainError
from model_runtime.training.embedded import EmbeddedStages, Recipe, train_embedded
from model_runtime.training.listening import ListeningTask
from model_runtime.training.log import read_rows
from model_runtime.training.mimi_task import MimiTask
from model_runtime.training.models import make_task
from model_runtime.training.stages import Stage, read_stage
from model_runtime.training.synthetic.script import World
from tests.model_runtime.training.synthetic.worlds import small_world
from tests.model_runtime.training.test_stages import toy

RECIPE = Recipe(
    codec_steps=3,
    voice_steps=3,
    callers=3,
    hearing_steps=3,
    listening_steps=3,
    recorded_hours=0.002,
    dialogue_steps=3,
    held_callers=1,
    asked=2,
)


def shortened(stage: Stage, batch: int, seconds: float) -> Stage:
    """The stage with small batches, and few sentences for the codec."""

    def small(section: dict[str, object]) -> dict[str, object]:
        if "mix" in section:
            mixed = section["mix"]
            assert isinstance(mixed, list)
            return {"mix": [small(each) for each in mixed]}
        fewer = {"agent": 0, "read": 2, "callers": 6} if section["kind"] == "speech" else {}
        return {**section, "batch": batch, "seconds": seconds, **fewer}

    data = {key: small(value) if isinstance(value, dict) else value for key, value in stage.data.items()}
    return replace(stage, data=data)


def toy_stages() -> EmbeddedStages:
    """The stages with small models."""
    files = EmbeddedStages.read()
    codec, voice = toy(files.codec, None), toy(files.voice, Path(str(files.voice.model.checkpoint)))
    return EmbeddedStages(
        shortened(replace(codec, mimi=replace(codec.mimi, phones=64)), 2, 0.32),
        shortened(replace(voice, mimi=replace(voice.mimi, phones=64)), 2, 0.32),
        shortened(toy(files.hearing, None), 3, 1.6),
        shortened(toy(files.listening, Path(str(files.listening.model.checkpoint))), 3, 1.6),
        shortened(toy(files.dialogue, Path(str(files.dialogue.model.checkpoint))), 2, 4.0),
    )


@pytest.mark.skipif(which("espeak-ng") is None, reason="apt-get install espeak-ng")
def test_the_whole_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is made, the runtime loads the last one, and a second call makes nothing anew."""
    world = tmp_path / "small.yaml"
    small_world(tmp_path)
    checkpoint = train_embedded(tmp_path / "out", RECIPE, world=world, stages=toy_stages())
    moshi, tokenizer = load_moshi(checkpoint, "cpu", torch.float32, 1)
    step = moshi.step(torch.zeros(1, 1, 1920), torch.ones(1, dtype=torch.bool))
    assert step.tokens.shape == (1, 17)
    assert len(tokenizer.encode(World.load(world).greeting)) == 2
    assert tokenizer.piece(PAD) == ""
    for name in ("codec", "voice", "hearing", "listening", "dialogue"):
        assert len(read_rows(tmp_path / "out" / name / "train.csv")) == 3
    assert "meant_right" in read_rows(tmp_path / "out" / "dialogue" / "held_out.csv")[0]
    scores = json.loads((checkpoint / "scores.json").read_text())
    assert {name: each["dialogues"] for name, each in scores.items()} == {"held": 2, "unseen": 2}
    assert "| answered what was asked" in (checkpoint / "README.md").read_text()

    monkeypatch.setattr("model_runtime.training.embedded.train", None)
    monkeypatch.setattr("model_runtime.training.embedded.build_store", None)
    assert train_embedded(tmp_path / "out", RECIPE, world=world, processes=2, stages=toy_stages()) == checkpoint
    with pytest.raises(ChainError, match="made with other settings"):
        train_embedded(tmp_path / "out", replace(RECIPE, callers=4), world=world, stages=toy_stages())


def test_a_budget_is_spent_on_all_parts() -> None:
    """Twice the time is twice of everything; a codec that is there leaves its time to the others."""
    hour, two = Recipe.within(60), Recipe.within(120)
    for name in ("codec_steps", "voice_steps", "callers", "hearing_steps", "listening_steps", "dialogue_steps"):
        assert getattr(two, name) == pytest.approx(2 * getattr(hour, name), rel=0.02)
    spared = Recipe.within(60, codec=False)
    assert spared.codec_steps == 0
    assert spared.dialogue_steps > hour.dialogue_steps


def test_the_stages_fit_the_front_desk() -> None:
    """Their files name as many words and intents as the world has, and their model fits into 30 MB with its codec."""
    files, world = EmbeddedStages.read(), World.load()
    for stage in (files.hearing, files.listening, files.dialogue):
        assert stage.listening is not None
        assert (stage.listening.words, stage.listening.intents) == (len(world.caller_words), len(world.intents))
    model = replace(files.hearing.model, user_embeddings_from=None)
    assert model.shape["text_card"] == 4 + len(world.agent_words)
    listening, codec = make_task(replace(files.hearing, model=model)), make_task(read_stage(Path("mimi_small")))
    assert isinstance(listening, ListeningTask)
    assert isinstance(codec, MimiTask)
    lm = listening.lm
    sizes = [sum(each.numel() for each in module.state_dict().values()) for module in (lm, codec.mimi)]
    assert 2 * sizes[0] + 4 * sizes[1] < 28e6
    assert lm.config.delays == (0, *(0, 1, 1, 1, 1, 1, 1, 1) * 2)
