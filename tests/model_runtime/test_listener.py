"""What the listener writes is what the speech-to-text model gives offline, and the conversation does not notice it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.listener import ListenerSteps
from model_runtime.lm.delays import UNGENERATED
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi, MoshiStep, Sampling
from model_runtime.resume import History
from model_runtime.sampling import GREEDY
from model_runtime.state import slot_tensors
from tests.model_runtime.conftest import SMALL_MIMI, randomise

STEPS = 40
"""More than three times the contexts of the small models, so every ring has wrapped."""
CODEBOOKS = 12
SMALL_STT = LanguageModelConfig(
    dim=64,
    num_heads=4,
    num_layers=2,
    context=12,
    max_period=100_000.0,
    text_card=60,
    card=64,
    n_q=CODEBOOKS,
    dep_q=0,
    delays=(0,) * (1 + CODEBOOKS),
)


@pytest.fixture
def stt() -> LanguageModel:
    """A random listener to more codebooks than the conversation has."""
    lm = LanguageModel(SMALL_STT).eval().requires_grad_(False)
    randomise(lm, 5)
    return lm


def codec(codebooks: int) -> Mimi:
    """A random codec of 12 codebooks, of which so many are written."""
    mimi = Mimi(replace(SMALL_MIMI, n_q=CODEBOOKS), codebooks).eval().requires_grad_(False)
    randomise(mimi, 1)
    return mimi


@pytest.fixture
def moshi(stt: LanguageModel, small_lm: LanguageModel) -> Moshi:
    """Three slots with a listener."""
    return Moshi(codec(CODEBOOKS), small_lm, 3, listener=stt)


def recording(slots: int, steps: int = STEPS, seed: int = 11) -> list[Tensor]:
    """Noise per slot, in frames ``[B, 1, 1920]``."""
    random = torch.Generator().manual_seed(seed)
    return list(torch.randn(slots, 1, steps * 1920, generator=random).mul_(0.2).split(1920, -1))


def written(step: MoshiStep) -> Tensor:
    """What the listener wrote in a step, ``[B]``."""
    assert step.caller is not None
    return step.caller


def converse(moshi: Moshi, frames: list[Tensor], mask: list[bool] | None = None) -> list[MoshiStep]:
    """Step through frames ``[B, 1, 1920]``."""
    active = torch.tensor(mask or [True] * moshi.slots)
    return [moshi.step(frame, active) for frame in frames]


@torch.inference_mode()
def offline(stt: LanguageModel, audio: Tensor) -> Tensor:
    """The text ``[T]`` that the model writes, greedily, with one pass over the codes of ``audio [1, 1, T * 1920]``.

    Frame 0 is not heard. Column t is made of the text of column t - 1 and the codes of frame t.
    """
    codes = codec(CODEBOOKS).encode(audio[..., 1920:])  # [1, K, T - 1]
    columns = torch.full((1, 1 + CODEBOOKS, 1), stt.config.audio_initial)
    columns[:, 0] = stt.config.text_initial
    text = []
    for t in range(codes.shape[-1] + 1):
        text.append(stt(columns)[1][:, -1].argmax(-1))
        if t < codes.shape[-1]:
            columns = torch.cat([columns, torch.cat([text[-1][:, None], codes[..., t]], dim=1)[..., None]], dim=2)
    return torch.cat(text)


@torch.inference_mode()
def test_streaming_equals_offline(stt: LanguageModel, small_lm: LanguageModel) -> None:
    """The text that comes step by step is that of one pass over the codes of the whole recording.

    The deployed codec's ring sees one key fewer than an offline pass (see kv_cache), so it is longer here.
    """
    moshi = Moshi(codec(CODEBOOKS), small_lm, 1, listener=stt)
    moshi.encoder_state = moshi.mimi.new_encoder_state(1, ring=SMALL_MIMI.context + 1)
    frames = recording(1)
    text = torch.cat([written(step) for step in converse(moshi, frames)])
    assert torch.equal(text, offline(stt, torch.cat(frames, -1)))
    assert len(text.unique()) >= 10


def test_a_slot_in_a_batch_writes_as_alone(moshi: Moshi, stt: LanguageModel, small_lm: LanguageModel) -> None:
    """Whoever else speaks, comes and goes, a slot's text is that of its own caller alone."""
    frames = recording(1)
    alone = [int(written(step)) for step in converse(Moshi(codec(CODEBOOKS), small_lm, 1, listener=stt), frames)]
    random = torch.Generator().manual_seed(2)
    ours = []
    for frame in frames:
        mask = torch.rand(3, generator=random) < 0.5
        mask[1] = True
        audio = torch.randn(3, 1, 1920, generator=random)
        audio[1] = frame[0]
        text = written(moshi.step(audio, mask))
        assert (text[~mask] == UNGENERATED).all()
        ours.append(int(text[1]))
    assert ours == alone


def test_a_masked_slot_is_untouched(moshi: Moshi) -> None:
    """A step leaves all that the listener remembers of a masked slot as it is."""
    frames = recording(3)
    converse(moshi, frames[:15])
    before = [tensor[1].clone() for tensor in slot_tensors(moshi.listener_state)]
    converse(moshi, frames[15:30], [True, False, True])
    after = [tensor[1] for tensor in slot_tensors(moshi.listener_state)]
    assert len(before) > 2
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_conversation_is_the_same_without(moshi: Moshi, small_lm: LanguageModel) -> None:
    """Tokens and audio of the conversation do not depend on whether somebody writes down the caller."""
    without = Moshi(codec(8), small_lm, 3)
    for slot in range(3):
        for each in (moshi, without):
            each.reset(slot, Sampling(), slot)
    frames = recording(3)
    for ours, other in zip(converse(moshi, frames), converse(without, frames), strict=True):
        assert other.caller is None
        assert torch.equal(ours.tokens, other.tokens)
        assert torch.equal(ours.row, other.row)
        torch.testing.assert_close(ours.audio, other.audio, rtol=0, atol=1e-5)


def test_a_reset_slot_is_fresh(moshi: Moshi) -> None:
    """After a reset, and after a resume, the listener writes as in a new conversation."""
    frames = recording(3)
    first = converse(moshi, frames)
    moshi.reset(0, GREEDY, 0)
    again = converse(moshi, frames)
    assert [int(written(step)[0]) for step in again] == [int(written(step)[0]) for step in first]
    history = History(STEPS, torch.cat([step.row[:1] for step in first]), torch.cat(frames)[::3, 0])
    moshi.resume(0, history, GREEDY, 0)
    assert not any(tensor[0].any() for tensor in slot_tensors(moshi.listener_state))
    assert int(written(moshi.step(frames[0], torch.tensor([True, False, False])))[0]) == int(written(first[0])[0])


def test_who_may_listen(stt: LanguageModel, small_lm: LanguageModel) -> None:
    """A listener says nothing itself, and the codec must have its codebooks."""
    with pytest.raises(ValueError, match="this one has 8"):
        ListenerSteps(small_lm)
    with pytest.raises(ValueError, match="the listener hears 12"):
        Moshi(codec(8), small_lm, 1, listener=stt)
