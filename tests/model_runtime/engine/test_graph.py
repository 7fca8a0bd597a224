from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.engine.graph import StepGraphs, put, silence, smallest
from model_runtime.lm.delays import NOT_FORCED, UNGENERATED
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi, Sampling
from model_runtime.state import slot_tensors
from tests.model_runtime.conftest import randomise


def recording(slots: int, steps: int) -> list[Tensor]:
    """Noise per slot, in frames ``[B, 1, 1920]``."""
    random = torch.Generator().manual_seed(11)
    return list(torch.randn(slots, 1, steps * 1920, generator=random).mul_(0.2).split(1920, -1))


def test_smallest_size_reaches_the_last_active_row() -> None:
    """The highest active row decides, not how many are active; a step of nobody takes the smallest size."""
    sizes = (1, 2, 4, 7)
    assert smallest(sizes, [True] + [False] * 6) == 1
    assert smallest(sizes, [False, False, True] + [False] * 4) == 4
    assert smallest(sizes, [True] + [False] * 5 + [True]) == 7
    assert smallest(sizes, [False] * 7) == 1


@torch.inference_mode()
def test_first_rows_step_as_part_of_the_whole(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """Stepping the first rows by themselves writes the state of the whole, as a graph of a smaller size does."""
    frames = recording(3, 12)
    whole, parted = Moshi(small_mimi, small_lm, 3), Moshi(small_mimi, small_lm, 3)
    mask = torch.tensor([True, True, False])
    for n, frame in enumerate(frames):
        expected = whole.step(frame, mask)
        if n % 2:
            step = parted.step(frame, mask)
            tokens, audio = step.tokens[:2], step.audio[:2]
        else:
            parted.prepare([True, True, False])
            step = parted.rows(2).advance(frame[:2], mask[:2])
            tokens, audio = step.tokens, step.audio
        assert torch.equal(tokens, expected.tokens[:2])
        torch.testing.assert_close(audio, expected.audio[:2], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_step_of_nobody_leaves_everything(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """Warming up and capturing step with an empty mask, which leaves all state as it is, bit for bit."""
    moshi = Moshi(small_mimi, small_lm, 2)
    frames = recording(2, 10)
    for frame in frames[:-1]:
        moshi.step(frame, torch.tensor([True, True]))
    states = (
        moshi.encoder_state,
        moshi.decoder_state,
        moshi.lm_state,
        moshi.grid_state,
        moshi.sampler.text_bias,
    )
    before = [tensor.clone() for state in states for tensor in slot_tensors(state)]
    moshi.advance(frames[-1], torch.tensor([False, False]))
    after = [tensor for state in states for tensor in slot_tensors(state)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.inference_mode()
def test_rows_behind_a_small_graph_are_silent(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """What rows behind the stepped ones gave in an earlier step is gone."""
    moshi = Moshi(small_mimi, small_lm, 2)
    output = silence(moshi)
    frames = recording(2, 4)
    for frame in frames[:3]:
        put(output, moshi.step(frame, torch.tensor([True, True])))
    assert output.ready.tolist() == [True, True]
    put(output, moshi.rows(1).advance(frames[3][:1], torch.tensor([True])))
    assert output.ready.tolist() == [True, False]
    assert output.audio[0].any()
    assert not output.audio[1].any()
    assert (output.tokens[1] == UNGENERATED).all()
    assert (output.row[1] == UNGENERATED).all()


def test_on_the_cpu_steps_are_eager(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """Without a GPU nothing is captured, and a step is the model's own."""
    frames = recording(2, 6)
    eager, graphs = Moshi(small_mimi, small_lm, 2), StepGraphs(Moshi(small_mimi, small_lm, 2))
    graphs.capture()
    for frame in frames:
        mask = torch.tensor([True, False])
        assert torch.equal(graphs.step(frame, mask).tokens, eager.step(frame, mask).tokens)


class WorkAgain:
    """In the place of a captured graph where there is no GPU: it does the work anew.

    Unrealistic in that it sees what changes beside its buffers.
    """

    def __init__(self, work: Callable[[], object], device: torch.device, pool: object) -> None:
        self.replay = work


@torch.inference_mode()
def test_buffers_and_sizes_carry_whole_conversations(
    small_mimi: Mimi, small_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All around the captured graphs gives the tokens of eager steps (the graphs themselves need a GPU)."""
    monkeypatch.setattr("model_runtime.engine.graph.capture", WorkAgain)
    graphed = Moshi(small_mimi, small_lm, 5)
    graphs = StepGraphs(graphed, sizes=(1, 2, 4))
    graphs._graphed = True
    assert_conversations_equal(graphs, graphed, Moshi(small_mimi, small_lm, 5))


@torch.inference_mode()
def test_a_listener_is_part_of_the_graph(
    small_mimi: Mimi, small_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes comes out of the buffers as out of eager steps, and nothing of rows that a small graph leaves."""
    monkeypatch.setattr("model_runtime.engine.graph.capture", WorkAgain)
    graphed, eager = (Moshi(small_mimi, small_lm, 5, listener=tiny_stt()) for _ in range(2))
    graphs = StepGraphs(graphed, sizes=(1, 2, 4))
    graphs._graphed = True
    assert_conversations_equal(graphs, graphed, eager)


def tiny_stt() -> LanguageModel:
    """A listener on the small codec."""
    config = LanguageModelConfig(
        dim=32, num_heads=2, num_layers=2, context=9, text_card=40, card=64, n_q=8, dep_q=0, delays=(0,) * 9
    )
    stt = LanguageModel(config).eval().requires_grad_(False)
    randomise(stt, 6)
    return stt


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU, and this machine has none")
def test_graphs_equal_eager_steps(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """Replayed graphs of any size give the tokens of eager steps."""
    mimi, lm = small_mimi.cuda(), small_lm.cuda()
    graphed = Moshi(mimi, lm, 5)
    assert_conversations_equal(StepGraphs(graphed, sizes=(1, 2, 4)), graphed, Moshi(mimi, lm, 5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU, and this machine has none")
def test_graphs_with_a_listener_equal_eager_steps(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """So do those in which the caller is written down."""
    mimi, lm, stt = small_mimi.cuda(), small_lm.cuda(), tiny_stt().cuda()
    graphed = Moshi(mimi, lm, 5, listener=stt)
    assert_conversations_equal(StepGraphs(graphed, sizes=(1, 2, 4)), graphed, Moshi(mimi, lm, 5, listener=stt))


def assert_conversations_equal(graphs: StepGraphs, graphed: Moshi, eager: Moshi) -> None:
    """Through gaps, resets, forced tokens, a larger top-k, a bias and a penalty."""
    graphs.capture()
    random = torch.Generator().manual_seed(1)
    for n, frame in enumerate(recording(5, 30)):
        mask = torch.rand(5, generator=random) < (0.9 if n % 3 else 0.2)
        if n in (10, 20):
            for moshi in (eager, graphed):
                moshi.reset(n % 5, Sampling(audio_top_k=n * 3, text_top_k=40), n)
                moshi.reset(3, Sampling(pad_bias=2.0, repetition_penalty=3.0), n)
        forced = None
        if n % 4 == 0:
            forced = torch.full((5, 17), NOT_FORCED)
            forced[2, 0] = n
        expected, step = eager.step(frame, mask, forced), graphs.step(frame, mask, forced)
        assert torch.equal(step.tokens, expected.tokens)
        assert torch.equal(step.row, expected.row)
        assert torch.equal(step.ready, expected.ready)
        torch.testing.assert_close(step.audio, expected.audio, rtol=0, atol=1e-4)
        assert (step.caller is None) == (expected.caller is None)
        if step.caller is not None and expected.caller is not None:
            assert torch.equal(step.caller, expected.caller)
            assert mask.any() == (step.caller >= 0).any()
