from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model_runtime.checkpoint import load_listener, load_moshi
from model_runtime.engine.model import AgentPrompt, Beginning, Past, SamplingOptions, StepOutput
from model_runtime.engine.moshi_model import MoshiModel
from model_runtime.errors import CheckpointError, ProtocolError
from model_runtime.speech_plan import plan_speech
from model_runtime.text import PAD, TextTokenizer
from model_runtime.tiny import TOKENIZER, tiny_moshi

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


RECORDING = (np.sin(np.arange(20 * 1_920 - 300) / 9) * 8_000).astype("<i2")
"""A greeting of not quite 20 frames."""
GREETED = AgentPrompt(greeting="good morning my friend", greeting_audio=RECORDING.tobytes())
GREEDY = SamplingOptions(audio_temperature=0.0, text_temperature=0.0)


def begin(model: MoshiModel, slot: int, prompt: AgentPrompt, past: Past | None = None) -> None:
    """Begin a greedy conversation to its last piece."""
    for _ in model.begin(slot, GREEDY, 1, Beginning(prompt, past)):
        pass


def live(model: MoshiModel, slot: int, frames: NDArray[np.int16]) -> list[StepOutput]:
    """Step a slot through its frames."""
    return [step(model, frame, slot) for frame in frames]


def scripted(outputs: list[StepOutput], slot: int) -> list[bool]:
    """Which steps were part of something forced."""
    return [bool(output.scripted[slot]) for output in outputs]


def rows(outputs: list[StepOutput], slot: int) -> NDArray[np.int64]:
    """The tokens of steps, ``[T, 17]``."""
    return np.stack([output.tokens[slot] for output in outputs])


@torch.inference_mode()
def test_a_recorded_greeting_is_the_models_own_speech(model: MoshiModel) -> None:
    """Its codes are what the model says, its words what it thinks, and the caller hears the codes decoded."""
    begin(model, 1, GREETED)
    outputs = live(model, 1, audio(40))
    said, (moshi, _) = rows(outputs, 1), tiny_moshi(1)
    whole = torch.nn.functional.pad(torch.from_numpy(RECORDING.astype(np.float32)), (0, 300)) / 32_768
    codes = moshi.mimi.encode(whole[None, None])[0].T.numpy()
    assert np.array_equal(said[:20, 1], codes[:, 0])
    assert np.array_equal(said[1:21, 2:9], codes[:, 1:])
    assert scripted(outputs, 1) == [True] * 21 + [False] * 19
    assert "".join(output.text[1] for output in outputs[:21]) == " good morning my friend"
    expected = moshi.mimi.decode(torch.from_numpy(codes.T.copy())[None])[0, 0].numpy()
    heard = np.concatenate([output.audio[1] for output in outputs[1:21]]) / 32_768
    assert np.abs(heard - expected).max() < 2e-4


@pytest.mark.parametrize("prompt", [GREETED, replace(GREETED, greeting=""), AgentPrompt(greeting=GREETED.greeting)])
@pytest.mark.parametrize("waited", [0, 6])
def test_a_greeting_goes_on_after_a_resume(model: MoshiModel, prompt: AgentPrompt, waited: int) -> None:
    """Wherever in a greeting a conversation moves, and however late it began, it is that of an uninterrupted one."""
    frames = audio(45)
    begin(model, 0, replace(prompt, wait=waited > 0))
    outputs = live(model, 0, frames[:waited])
    model.force(0, "")
    outputs += live(model, 0, frames[waited:])
    done = rows(outputs, 0)
    for steps in (2, waited + 3, waited + 10, waited + 21, 40):
        past = Past(steps, done[:steps].astype(np.int32), frames[:steps, 0])
        begin(model, 1, replace(prompt, wait=steps < waited), past)
        resumed = live(model, 1, frames[steps:waited, [1, 0]]) if steps < waited else []
        model.force(1, "")
        resumed += live(model, 1, frames[max(steps, waited) :, [1, 0]])
        assert np.array_equal(rows(resumed, 1), done[steps:]), steps
        assert scripted(resumed, 1) == scripted(outputs, 0)[steps:]


def test_a_prompt_and_a_recorded_greeting_go_together(model: MoshiModel) -> None:
    """The step that ends the prompt begins the greeting."""
    begin(model, 0, replace(GREETED, instructions="Be kind."))
    begin(model, 1, GREETED)
    after_prompt, alone = (rows(live(model, slot, audio(25)), slot) for slot in range(2))
    assert np.array_equal(after_prompt[:20, :2], alone[:20, :2])
    assert np.array_equal(after_prompt[1:21, 2:9], alone[1:21, 2:9])


def test_who_waits_keeps_silent(model: MoshiModel) -> None:
    """Until the first text there is only padding, which no script has said; other slots talk on."""
    model.reset(0, replace(SAMPLING, pad_bias=-5.0), 7)
    begin(model, 1, AgentPrompt(wait=True))
    outputs = [step(model, frame, 0, 1) for frame in audio(30)]
    assert (rows(outputs, 1)[:, 0] == PAD).all()
    assert len(np.unique(rows(outputs, 1)[:, 2])) > 3, "its voice is drawn"
    assert not any(output.scripted.any() for output in outputs)
    assert (rows(outputs, 0)[:, 0] != PAD).any()
    model.force(1, "Now then.")
    outputs = live(model, 1, audio(30))
    assert "".join(output.text[1] for output in outputs).startswith(" Now then.")
    length = scripted(outputs, 1).index(False)
    assert scripted(outputs, 1) == [True] * length + [False] * (30 - length)


@pytest.mark.parametrize("recording", [b"", RECORDING.tobytes()])
def test_who_waits_greets_first(model: MoshiModel, recording: bytes) -> None:
    """The first text lets the greeting go, before itself; an empty one says nothing more."""
    for text, wanted in (("Call me back.", " Hello you. Call me back."), ("", " Hello you.")):
        begin(model, 0, AgentPrompt(greeting="Hello you.", greeting_audio=recording, wait=True))
        live(model, 0, audio(5))
        model.force(0, text)
        outputs = live(model, 0, audio(90))
        spoken = "".join(output.text[0] for output in outputs if output.scripted[0])
        assert spoken.startswith(" Hello you.")
        assert wanted.removeprefix(" Hello you.")[:-1] in spoken, "after it the model may have a word to end first"
        assert scripted(outputs, 0)[0], "it begins at once"


def test_forced_text_is_told(model: MoshiModel) -> None:
    """Steps are marked while a text waits for the model to end its word, and while it is said, to its last one."""
    begin(model, 0, AgentPrompt())
    plain = live(model, 0, audio(10))
    model.force(0, "Please hold.")
    outputs = plain + live(model, 0, audio(80))
    marks = scripted(outputs, 0)
    first, count = marks.index(True), sum(marks)
    assert first >= 10
    assert marks[first : first + count] == [True] * count
    plan = [token for (token,) in plan_speech("Please hold.", TextTokenizer(TOKENIZER))]
    assert rows(outputs, 0)[first : first + count, 0].tolist()[-len(plan) :] == plan
    assert count - len(plan) <= 25


def test_sampling_reaches_the_text(model: MoshiModel) -> None:
    """A large bias for padding silences the text, its opposite lets none through, and words need not repeat."""

    def texts(**changes: float) -> NDArray[np.int64]:
        model.reset(0, replace(SAMPLING, **changes), 3)
        return rows(live(model, 0, audio(40)), 0)[:, 0]

    assert (texts(pad_bias=100.0) == PAD).all()
    assert (texts(pad_bias=-100.0) != PAD).all()
    said = texts(pad_bias=-100.0, text_temperature=0.0)
    various = texts(pad_bias=-100.0, text_temperature=0.0, repetition_penalty=10.0)
    assert len(set(various.tolist())) > len(set(said.tolist()))
    assert np.array_equal(texts(pad_bias=0.0, repetition_penalty=1.0), texts())


def test_the_caller_is_written_down() -> None:
    """With a listener the pieces of its text come out beside those of the model, for the masked slots."""
    listener = load_listener("random:stt", "cpu", torch.float32)
    model = MoshiModel(*load_moshi("random:tiny", "cpu", torch.float32, 2, listener=listener), None, listener)
    plain = MoshiModel(*tiny_moshi(2))
    assert (model.caller_text_delay_s, plain.caller_text_delay_s) == (0.5, 0.0)
    for each in (model, plain):
        each.reset(0, SAMPLING, 1)
    outputs, others = live(model, 0, audio(60)), live(plain, 0, audio(60))
    assert np.array_equal(rows(outputs, 0), rows(others, 0))
    assert len("".join(output.caller_text[0] for output in outputs)) > 20
    assert {output.caller_text[1] for output in outputs} == {""}
    assert {text for output in others for text in output.caller_text} == {""}


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
