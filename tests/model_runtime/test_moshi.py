from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model_runtime.lm.delays import UNGENERATED
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi, MoshiStep, Sampling
from model_runtime.sampling import GREEDY
from model_runtime.state import slot_tensors

STEPS = 40
"""More than three times the contexts of the small models, so every ring has wrapped."""


def recording(slots: int, steps: int = STEPS) -> list[Tensor]:
    """Noise per slot, in frames ``[B, 1, 1920]``."""
    random = torch.Generator().manual_seed(11)
    return list(torch.randn(slots, 1, steps * 1920, generator=random).mul_(0.2).split(1920, -1))


def everyone(moshi: Moshi) -> Tensor:
    """The mask of a step in which every slot takes part."""
    return torch.ones(moshi.slots, dtype=torch.bool)


def converse(moshi: Moshi, slot: int, frames: list[Tensor]) -> list[MoshiStep]:
    """Step one slot through frames ``[1, 1, 1920]``, with noise in the other slots, which are masked."""
    mask = torch.zeros(moshi.slots, dtype=torch.bool)
    mask[slot] = True
    steps = []
    for frame in frames:
        audio = torch.randn(moshi.slots, 1, 1920)
        audio[slot] = frame[0]
        step = moshi.step(audio, mask)
        steps.append(
            MoshiStep(
                step.audio[slot : slot + 1],
                step.tokens[slot : slot + 1],
                step.ready[slot : slot + 1],
                step.row[slot : slot + 1],
            )
        )
    return steps


def assert_same(ours: list[MoshiStep], expected: list[MoshiStep]) -> None:
    """Tokens are equal, audio is within rounding."""
    for step, other in zip(ours, expected, strict=True):
        assert torch.equal(step.ready, other.ready)
        assert torch.equal(step.tokens, other.tokens)
        torch.testing.assert_close(step.audio, other.audio, rtol=0, atol=1e-4)


def state_of(moshi: Moshi, slot: int) -> list[Tensor]:
    """A copy of all that a model remembers of a slot."""
    states = (
        moshi.encoder_state,
        moshi.decoder_state,
        moshi.lm_state,
        moshi.grid_state,
        moshi.sampler.text_bias,
    )
    return [tensor[slot].clone() for state in states for tensor in slot_tensors(state)]


def test_greedy_conversations_equal_reference(
    small_mimi: Mimi, small_lm: LanguageModel, reference_mimi: Callable[[], nn.Module], reference_lm: nn.Module
) -> None:
    """Slots with gaps and resets say, token for token, what the reference's streaming classes say.

    The reference is run as its server runs it: it encodes a slot's frame 0, throws the codes away and resets the
    codec's encoder. Its rings are those deployed: as large as the context.
    """
    from moshi.models.lm import LMGen

    slots = 3
    moshi = Moshi(small_mimi, small_lm, slots)
    for slot in range(slots):
        moshi.reset(slot, GREEDY, 0)
    encoder, decoder = reference_mimi(), reference_mimi()
    generator = LMGen(reference_lm, use_sampling=False, support_out_of_sync=True)
    random = torch.Generator().manual_seed(5)
    steps_of_slot = torch.zeros(slots, dtype=torch.long)
    said: set[tuple[int, ...]] = set()
    with encoder.streaming(slots), decoder.streaming(slots), generator.streaming(slots):
        for n, frame in enumerate(recording(slots, 80)):
            mask = torch.rand(slots, generator=random) < 0.7
            if n in (25, 50):
                moshi.reset(n % slots, GREEDY, 0)
                again = torch.arange(slots) == n % slots
                for part in (encoder, decoder, generator):
                    part.reset_streaming(again)
                steps_of_slot[again] = 0
            encoder.set_exec_mask(mask)
            codes = encoder.encode(frame)
            encoder.reset_streaming(mask & (steps_of_slot == 0))
            generator.set_exec_mask(mask)
            theirs = generator.step(codes)[:, :, 0]  # [B, 9]
            ready = theirs[:, 0] != UNGENERATED
            decoder.set_exec_mask(ready)
            speech = decoder.decode(theirs[:, 1:, None].clamp(min=0))
            steps_of_slot += mask

            step = moshi.step(frame, mask)
            assert torch.equal(step.ready, ready)
            assert torch.equal(step.tokens[:, :9], theirs)
            heard = step.tokens[:, 9:]
            assert torch.equal(heard[ready], codes[ready, :, 0])
            torch.testing.assert_close(step.audio[ready], speech[ready], rtol=0, atol=1e-4)
            said |= {tuple(row) for row in theirs[ready].tolist()}
    assert len(said) > 100  # no two frames alike, or nearly so


def test_first_step_gives_no_audio(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """A slot's first step is silent and not ready; every later one has audio, and the codes of the frame it heard."""
    moshi = Moshi(small_mimi, small_lm, 2)
    frames = recording(2, 4)
    first, *rest = [moshi.step(frame, everyone(moshi)) for frame in frames]
    assert not first.ready.any()
    assert not first.audio.any()
    assert (first.tokens == UNGENERATED).all()
    heard = small_mimi.encode(torch.cat(frames[1:], -1))  # the first frame is not heard
    for t, step in enumerate(rest):
        assert step.ready.all()
        assert step.audio.abs().amax() > 0
        assert torch.equal(step.tokens[:, 9:], heard[..., t])


def test_slot_in_a_batch_equals_slot_alone(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """The same seed and audio give the same tokens alone, in a batch, and in whichever slot."""
    frames = recording(1)
    alone = Moshi(small_mimi, small_lm, 1)
    alone.reset(0, Sampling(), 42)
    expected = converse(alone, 0, frames)
    assert len({int(step.tokens[0, 0]) for step in expected}) > 5
    crowd = Moshi(small_mimi, small_lm, 4)
    random = torch.Generator().manual_seed(1)
    for slot in (2, 0):
        crowd.reset(slot, Sampling(), 42)
        ours = []
        for frame in frames:
            mask = torch.rand(4, generator=random) < 0.5  # the others come and go
            mask[slot] = True
            audio = torch.randn(4, 1, 1920, generator=random)
            audio[slot] = frame[0]
            step = crowd.step(audio, mask)
            rows = slice(slot, slot + 1)
            ours.append(MoshiStep(step.audio[rows], step.tokens[rows], step.ready[rows], step.row[rows]))
        assert_same(ours, expected)


def test_masked_slot_is_untouched(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """A step leaves all state of a masked slot as it is, bit for bit, even if its row holds no numbers."""
    moshi = Moshi(small_mimi, small_lm, 2)
    frames = recording(2)
    for frame in frames[:15]:
        moshi.step(frame, everyone(moshi))
    before = state_of(moshi, 1)
    for frame in frames[15:]:
        frame[1] = float("nan")
        step = moshi.step(frame, torch.tensor([True, False]))
        assert step.audio.isfinite().all()
        assert not step.ready[1]
        assert not step.audio[1].any()
        assert (step.tokens[1] == UNGENERATED).all()
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(moshi, 1), strict=True))


def test_gaps_do_not_show(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """A slot that pauses while others step, sampling with its own generator, goes on as if it had not."""
    frames = recording(1)
    moshi = Moshi(small_mimi, small_lm, 2)
    moshi.reset(0, Sampling(), 9)
    expected = converse(moshi, 0, frames)
    moshi.reset(0, Sampling(), 9)
    ours = []
    for t in range(0, STEPS, 8):
        ours += converse(moshi, 0, frames[t : t + 8])
        converse(moshi, 1, frames[:3])
    assert_same(ours, expected)


def test_reset_slot_is_fresh(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """After a reset nothing of the conversation before remains, wherever it was broken off."""
    frames = recording(1)
    moshi = Moshi(small_mimi, small_lm, 1)
    moshi.reset(0, Sampling(), 3)
    fresh = state_of(moshi, 0)
    expected = converse(moshi, 0, frames)
    for length in (1, 2, 17):
        moshi.reset(0, Sampling(), 4)
        converse(moshi, 0, frames[:length])
        moshi.reset(0, Sampling(), 3)
        assert all(torch.equal(a, b) for a, b in zip(fresh, state_of(moshi, 0), strict=True))
        assert_same(converse(moshi, 0, frames), expected)


def test_seed_and_settings_matter(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """Another seed says something else; greedy slots say the same whatever their seed."""
    frames = recording(1, 12)
    moshi = Moshi(small_mimi, small_lm, 1)

    def tokens(sampling: Sampling, seed: int) -> Tensor:
        moshi.reset(0, sampling, seed)
        return torch.cat([step.tokens for step in converse(moshi, 0, frames)])

    assert not torch.equal(tokens(Sampling(), 1), tokens(Sampling(), 2))
    assert torch.equal(tokens(GREEDY, 1), tokens(GREEDY, 2))
    assert torch.equal(tokens(Sampling(audio_top_k=1, text_top_k=1), 1), tokens(GREEDY, 2))


def test_codec_and_language_model_must_fit(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """A codec with another number of codebooks than the language model speaks is refused."""
    with pytest.raises(ValueError, match="codebooks"):
        Moshi(Mimi(replace(small_mimi.config), codebooks=4), small_lm, 1)
