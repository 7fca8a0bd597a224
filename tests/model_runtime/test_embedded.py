"""The trained checkpoint that comes with Denwa: its files, shape, codec and words; nothing of how good it is."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from model_runtime import embedded
from model_runtime.checkpoint import load_mimi, load_moshi
from model_runtime.checkpoint.files import Checkpoint, locate
from model_runtime.checkpoint.report import info
from model_runtime.embedded import FRONT_DESK, embedded_folder
from model_runtime.engine.model import SamplingOptions
from model_runtime.engine.moshi_model import MoshiModel
from model_runtime.errors import CheckpointError
from model_runtime.greeting import plan_text
from model_runtime.text import PAD, TextTokenizer
from model_runtime.training.embedded import EmbeddedStages
from model_runtime.training.stages import read_stage
from model_runtime.training.synthetic.script import World

FRAMES = 20
MOST_BYTES = 30_000_000


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """As it is named in a configuration."""
    return locate(FRONT_DESK)


def test_it_is_small() -> None:
    """All files together are at most 30 MB, and none of them is there for anything but the runtime and its reader."""
    files = [file for file in embedded_folder(FRONT_DESK).iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".model", ".md"}


def test_it_converses() -> None:
    """It loads with its tokenizer, steps, and `denwa model info` knows it by its name."""
    model = MoshiModel(*load_moshi(FRONT_DESK, "cpu", torch.float32, 1))
    model.reset(0, SamplingOptions(), 1)
    audio = np.random.default_rng(1).integers(-3000, 3000, (FRAMES, 1, 1920)).astype(np.int16)
    steps = [model.step(frame, np.ones(1, np.bool_)) for frame in audio]
    assert np.abs(np.stack([step.audio for step in steps])).max() > 0
    assert FRONT_DESK in info(FRONT_DESK, "cpu", "float32")


def test_its_streaming_codes_are_its_offline_codes(checkpoint: Checkpoint) -> None:
    """Encoded frame by frame, with a ring one larger than the context, a recording has the codes of one pass."""
    mimi = load_mimi(checkpoint)
    loudness = torch.linspace(0.01, 0.4, FRAMES).repeat_interleave(1920)
    audio = torch.randn(2, 1, FRAMES * 1920, generator=torch.Generator().manual_seed(5)) * loudness
    everyone = torch.ones(2, dtype=torch.bool)
    with torch.inference_mode():
        state = mimi.new_encoder_state(2, mimi.config.context + 1)
        streamed = torch.stack([mimi.encode_step(frame, state, everyone) for frame in audio.split(1920, -1)], -1)
        assert torch.equal(streamed, mimi.encode(audio))


def test_it_has_the_words_of_its_world(checkpoint: Checkpoint) -> None:
    """Every word that the agent of the world ever says is one piece of the tokenizer, and there is no other."""
    tokenizer, world = TextTokenizer(checkpoint.tokenizer()), World.load()
    pieces = [tokenizer.piece(token).strip() for token in range(PAD + 1, tokenizer.vocab_size)]
    assert sorted(pieces) == world.agent_words
    assert checkpoint.config.lm.text_card == tokenizer.vocab_size
    assert not tokenizer.unknown_words(" ".join(world.agent_texts))


def test_its_words_are_documented() -> None:
    """docs/checkpoints.md lists them all, for whoever writes a text for it."""
    lines = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text().splitlines()
    listed = " ".join(line.removeprefix("> ") for line in lines if line.startswith("> "))
    assert listed.split() == World.load().agent_words


def test_it_has_the_shape_that_is_trained(checkpoint: Checkpoint) -> None:
    """Its config says what the stages of `denwa train embedded` say; how far back it looks is free, no weight tells."""
    stages = EmbeddedStages.read()
    assert stages.hearing.model is not None
    trained, has = dict(stages.hearing.model.shape), asdict(checkpoint.config.lm)
    del trained["context"]
    assert {name: _plain(has[name]) for name in trained} == trained
    codec = dict(read_stage(Path("mimi_small")).model.shape)
    assert _matching(asdict(checkpoint.codec_config()), codec) == codec


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _matching(has: dict[str, object], wanted: dict[str, object]) -> dict[str, object]:
    """Of what there is, the keys that are wanted, also in sections."""
    found: dict[str, object] = {}
    for name, value in wanted.items():
        own = has[name]
        found[name] = _matching(own, value) if isinstance(own, dict) and isinstance(value, dict) else _plain(own)
    return found


def test_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name is told with those that there are; a known one whose files are missing with where they belong."""
    with pytest.raises(CheckpointError, match=r"embedded:reception: no such checkpoint .*: embedded:front-desk"):
        locate("embedded:reception")
    monkeypatch.setitem(embedded._FOLDERS, FRONT_DESK, tmp_path / "front_desk")
    with pytest.raises(CheckpointError, match=r"embedded:front-desk: this installation lacks its files.*front_desk"):
        load_moshi(FRONT_DESK, "cpu", torch.float32, 1)


def test_what_it_has_no_words_for_is_not_said(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    """A text with a word that no piece stands for is left out whole, and the log says so; others are said."""
    tokenizer = TextTokenizer(checkpoint.tokenizer())
    plan = [row[0] for row in plan_text("Are you still there?", tokenizer)]
    assert "".join(map(tokenizer.piece, plan)) == " Are you still there?"
    assert plan_text("I cannot hear you.", tokenizer) == []
    assert "model.text_not_said unknown_words=2 words=4" in caplog.text
    assert tokenizer.unknown_words("I cannot hear you.") == ["cannot", "hear"]
