import sys

import pytest

from config.schema import ModelSettings
from model_runtime.engine.echo import EchoModel
from model_runtime.errors import CheckpointError, LocalModelError
from model_runtime.worker.models import load_model
from model_runtime.worker.serve import serve_worker

TINY = ModelSettings(kind="moshi", checkpoint="random:tiny", slots=3)


def test_each_kind_is_built_with_its_slots() -> None:
    """The settings' kind and number of slots decide what is built."""
    assert isinstance(load_model(ModelSettings(kind="echo", slots=5)), EchoModel)
    assert load_model(TINY).slots == 3
    assert "torch" in sys.modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "/models/moshiko"}, "'/models/moshiko' cannot be loaded; this version knows random:tiny alone"),
        ({"device": "cuda"}, "device: cpu"),
        ({"dtype": "bfloat16"}, "dtype: float32"),
    ],
)
def test_what_cannot_be_loaded_is_said(change: dict[str, str], message: str) -> None:
    """A checkpoint, device or type that this version does not know raises ``CheckpointError``, which names it."""
    with pytest.raises(CheckpointError, match=message):
        load_model(TINY.model_copy(update=change))


def test_an_address_that_cannot_be_had_is_said() -> None:
    """``serve_worker`` raises ``LocalModelError`` where it cannot listen."""
    with pytest.raises(LocalModelError, match=r"192\.0\.2\.1:1: "):  # RFC 5737: no machine has it
        serve_worker("m", ModelSettings(kind="echo"), listen=("192.0.2.1", 1))
