import sys
from pathlib import Path

import numpy as np
import pytest

from config.schema import ModelSettings
from model_runtime.checkpoint.config_file import parse_config, read_mimi_config
from model_runtime.engine.echo import EchoModel
from model_runtime.errors import CheckpointError, LocalModelError
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.worker.models import load_model
from model_runtime.worker.serve import serve_worker
from tests.model_runtime.checkpoint import published

TINY = ModelSettings(kind="moshi", checkpoint="random:tiny", slots=3)


def test_each_kind_is_built_with_its_slots() -> None:
    """The settings' kind and number of slots decide what is built."""
    assert isinstance(load_model(ModelSettings(kind="echo", slots=5)), EchoModel)
    assert load_model(TINY).slots == 3
    assert "torch" in sys.modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "/models/nowhere"}, "/models/nowhere: there is no such folder or file"),
        ({"device": "cuda:99"}, "device cuda:99: torch .* sees"),
    ],
)
def test_what_cannot_be_loaded_is_said(change: dict[str, str], message: str) -> None:
    """A checkpoint that is not there, or a device that torch lacks, raises ``CheckpointError`` with its name."""
    with pytest.raises(CheckpointError, match=message):
        load_model(TINY.model_copy(update=change))


def test_a_checkpoint_folder_is_served(tmp_path: Path) -> None:
    """A folder of files in the published layout steps as a model, in the type that was asked for."""
    lm = LanguageModel(parse_config(published.MOSHI).lm)
    codec = Mimi(read_mimi_config(published.write_codec_config(tmp_path)))
    published.write(tmp_path, lm.state_dict(), published.MOSHI, mimi=codec.state_dict())
    model = load_model(TINY.model_copy(update={"checkpoint": str(tmp_path), "dtype": "bfloat16"}))
    step = model.step(np.zeros((3, 1920), np.int16), np.ones(3, np.bool_))
    assert step.tokens.shape == (3, 17)


def test_a_listener_is_loaded_beside_the_model() -> None:
    """With a listener the model writes down the caller, and says how late."""
    model = load_model(TINY.model_copy(update={"listener": "random:stt"}))
    assert model.caller_text_delay_s == 0.5
    assert load_model(TINY).caller_text_delay_s == 0.0
    assert load_model(ModelSettings(kind="echo")).caller_text_delay_s == 0.0


def test_a_listener_must_listen() -> None:
    """A checkpoint that is not there, or one that cannot listen to this codec, is refused with its name."""
    with pytest.raises(CheckpointError, match="/models/nowhere"):
        load_model(TINY.model_copy(update={"listener": "/models/nowhere"}))


def test_an_address_that_cannot_be_had_is_said() -> None:
    """``serve_worker`` raises ``LocalModelError`` where it cannot listen."""
    with pytest.raises(LocalModelError, match=r"192\.0\.2\.1:1: "):  # RFC 5737: no machine has it
        serve_worker("m", ModelSettings(kind="echo"), listen=("192.0.2.1", 1))
