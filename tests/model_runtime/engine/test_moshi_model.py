from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model_runtime.engine.model import AgentPrompt, Beginning, Past, SamplingOptions, StepOutput
from model_runtime.engine.moshi_model import MoshiModel
from model_runtime.errors import CheckpointError, ProtocolError
from model_runtime.tiny import tiny_moshi

SAMPLING = SamplingOptions()


@pytest.fixture
def model() -> MoshiModel:
    """Two slots of the tiny Moshi."""
    return MoshiModel(*tiny_moshi(2))


def audio(count: int) -> NDArray[np.int16]:
    """What both callers say, ``[n, 2, 1920]``."""
    return np.random.default_rng(2).integers(-8000, 8000, (count, 2, 1920)).astype(np.int16)


def step(model: MoshiModel, frame: NDArray[np.int16], *slots: int) -> StepOutput:
    """Step the given slots."""
    return model.step(frame, np.isin(np.arange(2), slots))


def talk(model: MoshiModel, slot: int, count: int) -> str:
    """What a slot says in so many steps."""
    return "".join(step(model, frame, slot).text[slot] for frame in audio(count))


def test_a_greeting_is_said_word_for_word(model: MoshiModel) -> None:
    """The transcript of a call begins with the greeting."""
    for _ in model.begin(1, SAMPLING, 1, Beginning(AgentPrompt(greeting="Good morning, my friend."))):
        pass
    assert talk(model, 1, 60).startswith(" Good morning, my friend.")


def test_a_text_in_mid_call_is_said_word_for_word(model: MoshiModel) -> None:
    """It is said in the slot that it is meant for, whole words before it and after it."""
    for slot in range(2):
        model.reset(slot, SAMPLING, slot)
    talk(model, 0, 5)
    model.force(0, "Please hold the line.")
    assert " Please hold the line." in talk(model, 0, 80)
    assert "hold the line" not in talk(model, 1, 80)
    model.force(0, "Never said.")
    model.reset(0, SAMPLING, 3)
    assert "Never said" not in talk(model, 0, 60), "what waited is gone with the conversation"


def test_a_beginning_leaves_other_slots_alone(model: MoshiModel) -> None:
    """A slot that is stepped between the pieces of another one's beginning says what it says alone."""
    frames = audio(30)
    model.reset(0, SAMPLING, 5)
    alone = [step(model, frame, 0).tokens[0].tolist() for frame in frames]

    model.reset(0, SAMPLING, 5)
    past = Past(600, np.full((600, 17), 9, np.int32), frames[:, 1])
    pieces = model.begin(1, SAMPLING, 1, Beginning(AgentPrompt("Be kind."), past))
    begun, together = False, []
    for frame in frames:
        together.append(step(model, frame, *([0, 1] if begun else [0])).tokens[0].tolist())
        begun = begun or next(pieces, "done") == "done"
    assert begun
    assert together == alone


def test_prompts_are_computed_once(model: MoshiModel) -> None:
    """A prompt that was used before begins without its computation, and the oldest of more than eight is forgotten."""

    def pieces(text: str) -> int:
        return len(list(model.begin(0, SAMPLING, 1, Beginning(AgentPrompt(text)))))

    first = pieces("one")
    assert pieces("one") < first
    for n in range(8):
        pieces(f"two {n}")
    assert pieces("one") == first
    assert pieces("two 7") < first


@pytest.mark.parametrize(
    "tokens", [np.full((3, 17), 321), np.full((3, 16), 5), np.full((3, 17), -3), np.full((3, 17), -1)]
)
def test_a_past_of_another_model_is_refused(model: MoshiModel, tokens: NDArray[np.int64]) -> None:
    """Tokens that cannot be this model's raise ``ProtocolError`` before anything is computed with them."""
    past = Past(3, tokens.astype(np.int32), np.zeros((0, 1920), np.int16))
    with pytest.raises(ProtocolError, match="resume: "):
        list(model.begin(0, SAMPLING, 1, Beginning(past=past)))


def test_a_voice_must_be_there(tmp_path: Path) -> None:
    """A voice that the worker does not have is named, with the files that were looked for."""
    model = MoshiModel(*tiny_moshi(1), tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no NATF0\.wav and no NATF0\.pt"):
        list(model.begin(0, SAMPLING, 1, Beginning(AgentPrompt(voice="NATF0"))))
