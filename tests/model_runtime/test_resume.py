"""A resumed conversation goes on as if it had never been broken off."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_runtime.lm.delays import NOT_FORCED, UNGENERATED, GridState, TokenGrid
from model_runtime.lm.language_model import LanguageModel, LanguageModelState
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi, MoshiStep
from model_runtime.prompts import Prompt, from_frames
from model_runtime.resume import History, PreparedPrompt, begin, prepare_prompt
from model_runtime.sampling import GREEDY, Sampling
from model_runtime.state import first_rows, slot_tensors

FURTHER = 100
"""Steps that are compared after a resume."""


def frames(count: int, seed: int = 11) -> Tensor:
    """What a caller says, ``[n, 1920]``."""
    return torch.randn(count, 1920, generator=torch.Generator().manual_seed(seed)) * 0.2


def talk(moshi: Moshi, slot: int, audio: Tensor) -> list[MoshiStep]:
    """Step one slot through ``audio [n, 1920]``; its rows of what each step gave."""
    mask = torch.arange(moshi.slots) == slot
    steps = []
    for frame in audio:
        step = moshi.step(frame.expand(moshi.slots, 1, -1), mask)
        rows = slice(slot, slot + 1)
        steps.append(MoshiStep(step.audio[rows], step.tokens[rows], step.ready[rows], step.row[rows]))
    return steps


def rows(steps: list[MoshiStep]) -> Tensor:
    """The rows ``[T, 17]`` of steps."""
    return torch.cat([step.row for step in steps])


@pytest.fixture
def moshi(small_mimi: Mimi, small_lm: LanguageModel) -> Moshi:
    """Two slots of the small model."""
    return Moshi(small_mimi, small_lm, 2)


def test_resumed_equals_uninterrupted(moshi: Moshi) -> None:
    """Greedy: a slot given a whole history goes on with the tokens and the audio of the uninterrupted one.

    The rings, of 12 steps and of 10 positions in the codec, have gone round long since at the last point.
    """
    length = 60
    audio = frames(length + FURTHER)
    moshi.reset(0, GREEDY, 0)
    steps = talk(moshi, 0, audio)
    talk(moshi, 1, frames(7, seed=3))  # another conversation was here before
    for done, further in ((1, 3), (2, 3), (10, 20), (length, FURTHER)):
        moshi.resume(1, History(done, rows(steps[:done]), audio[:done][-125:]), GREEDY, 0)
        resumed = talk(moshi, 1, audio[done : done + further])
        assert torch.equal(rows(resumed), rows(steps[done : done + further])), done
        for ours, expected in zip(resumed, steps[done:], strict=False):
            assert torch.equal(ours.tokens, expected.tokens)
            torch.testing.assert_close(ours.audio, expected.audio, rtol=0, atol=1e-4)
    assert len({tuple(row) for row in rows(steps).tolist()}) > length


@pytest.mark.parametrize("done", [5, 90])
def test_resumed_words_are_still_penalised(moshi: Moshi, done: int) -> None:
    """Greedy with a penalty on repetition, a resumed slot knows what was said lately, drawn or forced."""
    sampling = replace(GREEDY, repetition_penalty=3.0, pad_bias=-1.0)
    audio = frames(done + 30)
    moshi.reset(0, sampling, 0)
    steps = talk(moshi, 0, audio)
    moshi.resume(1, History(done, rows(steps[:done]), audio[:done][-125:]), sampling, 0)
    assert torch.equal(rows(talk(moshi, 1, audio[done:])), rows(steps[done:]))
    moshi.resume(1, History(done, rows(steps[:done]), audio[:done][-125:]), GREEDY, 0)
    assert not torch.equal(rows(talk(moshi, 1, audio[done:])), rows(steps[done:]))


def test_caller_without_his_audio(moshi: Moshi) -> None:
    """Without the caller's audio the language model and the decoder are as exact; only what is heard may differ."""
    done = 40
    audio = frames(done + 5)
    moshi.reset(0, GREEDY, 0)
    steps = talk(moshi, 0, audio)
    moshi.resume(1, History(done, rows(steps[:done]), audio[:0]), GREEDY, 0)
    (resumed,) = talk(moshi, 1, audio[done : done + 1])
    assert torch.equal(resumed.tokens[:, :9], steps[done].tokens[:, :9])
    torch.testing.assert_close(resumed.audio, steps[done].audio, rtol=0, atol=1e-4)


@torch.inference_mode()
def go_on(lm: LanguageModel, grid: TokenGrid, state: LanguageModelState, place: GridState, user: Tensor) -> Tensor:
    """The rows that the language model alone adds, greedily, hearing ``user [T, 8]`` in its first slot."""
    mask = torch.tensor([True])
    added = []
    for codes in user:
        grid.hear(place, codes[None], mask)
        hidden, logits = lm.step(grid.inputs(place, mask), state, mask)
        text = logits.argmax(-1)
        own = lm.generate_codes(hidden, text, lambda k, logits: logits.argmax(-1))
        grid.say(place, text, own, mask)
        added.append(torch.cat([text, own[0], codes]))
    return torch.stack(added)


@pytest.mark.parametrize(("done", "histories"), [(500, (500,)), (3_100, (3_100, 3_000))])
def test_long_histories(moshi: Moshi, done: int, histories: tuple[int, ...]) -> None:
    """After thousands of steps, whole or cut to the last 3,000, the next hundred are those of the uninterrupted run."""
    lm, grid = moshi.lm, moshi.grid
    random = torch.Generator().manual_seed(7)
    past = torch.randint(50, (done, 17), generator=random)
    user = torch.randint(64, (FURTHER, 8), generator=random)
    mask = torch.tensor([True])

    state, place = lm.new_state(1), grid.new_state(1)
    with torch.inference_mode():
        for column in grid.read_columns(past, 0):
            lm.transformer(lm.embed(column[None], state, 0)[None], state.transformer, mask)
    grid.restore(place, 0, past, done)
    expected = go_on(lm, grid, state, place, user)

    for known in histories:
        moshi.resume(0, History(done, past[-known:], torch.empty(0, 1920)), GREEDY, 0)
        assert moshi.lm_state.transformer.offset[0] == done
        ours = go_on(lm, grid, first_rows(moshi.lm_state, 1), first_rows(moshi.grid_state, 1), user)
        assert torch.equal(ours, expected), known
        assert len(ours.unique()) > 50


def forced_talk(moshi: Moshi, slot: int, given: Tensor) -> MoshiStep:
    """Step one slot through given rows ``[T, 17]``; returns the last step."""
    mask = torch.arange(moshi.slots) == slot
    for row in given:
        step = moshi.step(torch.randn(moshi.slots, 1, 1920), mask, row.expand(moshi.slots, -1))
    return step


def prepared_prompt(moshi: Moshi, prompt: Prompt) -> PreparedPrompt:
    """The prompt's cache."""
    pieces = prepare_prompt(moshi, prompt)
    while True:
        try:
            next(pieces)
        except StopIteration as done:
            prepared: PreparedPrompt = done.value
            return prepared


@pytest.fixture
def prompt(moshi: Moshi) -> Prompt:
    """Twenty frames, longer than the small model's context."""
    random = torch.Generator().manual_seed(5)
    return from_frames(torch.randint(50, (9, 17), generator=random), moshi.lm.config)


def test_prompt_cache_copied_equals_prompt_stepped(moshi: Moshi, prompt: Prompt) -> None:
    """A slot that a prompt's cache was copied into says, to the bit, what one says that was stepped through it."""
    audio = frames(40)
    moshi.reset(0, GREEDY, 0)
    forced_talk(moshi, 0, prompt.rows)
    first = forced_talk(moshi, 0, prompt.next_row[None])
    assert not first.ready.any(), "a step without a caller gives no audio"
    stepped = talk(moshi, 0, audio)

    prepared = prepared_prompt(moshi, prompt)
    for _ in range(2):  # the cache is still good after its first use
        talk(moshi, 1, frames(5, seed=4))
        for _ in begin(moshi, 1, GREEDY, 0, prompt=prepared):
            pass
        forced_talk(moshi, 1, prompt.next_row[None])
        ours = talk(moshi, 1, audio)
        assert torch.equal(rows(ours), rows(stepped))
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(ours, stepped, strict=True))
        assert all(step.ready.all() for step in ours), "the first frame after a prompt is heard and answered"


def test_resumed_after_a_prompt(moshi: Moshi, prompt: Prompt) -> None:
    """A conversation that began with a prompt is resumed from the prompt and its own steps."""
    audio, done = frames(60), 30
    prepared = prepared_prompt(moshi, prompt)
    for _ in begin(moshi, 0, GREEDY, 0, prompt=prepared):
        pass
    steps = [forced_talk(moshi, 0, prompt.next_row[None])]
    steps[0] = replace(steps[0], row=steps[0].row[:1])
    steps += talk(moshi, 0, audio)
    history = History(done, rows(steps[:done]), audio[: done - 1])
    for _ in begin(moshi, 1, GREEDY, 0, prompt=prepared, history=history):
        pass
    ours = talk(moshi, 1, audio[done - 1 :])
    assert torch.equal(rows(ours), rows(steps[done:]))
    torch.testing.assert_close(ours[0].audio, steps[done].audio, rtol=0, atol=1e-4)


def test_pinned_prompt_stays_in_sight(small_mimi: Mimi, small_lm: LanguageModel, prompt: Prompt) -> None:
    """Pinned steps change nothing until the ring is full, and are seen for ever after; without pins they slide out."""
    other = from_frames(torch.randint(50, (9, 17), generator=torch.Generator().manual_seed(6)), small_lm.config)
    user = torch.randint(64, (60, 8), generator=torch.Generator().manual_seed(7))
    said: dict[int, list[Tensor]] = {}
    for pins in (0, 8):
        for each in (prompt, other):
            moshi = Moshi(small_mimi, small_lm, 1, pins=pins)
            for _ in begin(moshi, 0, GREEDY, 0, prompt=prepared_prompt(moshi, each)):
                pass
            added = go_on(small_lm, moshi.grid, moshi.lm_state, moshi.grid_state, user)
            said.setdefault(pins, []).append(added)
            ring = moshi.lm_state.transformer.rings[0]
            keys = [ring.kv, *(moshi.lm_state.transformer.sinks or [])]
            assert all(part.isfinite().all() for part in keys)
    until_full = small_lm.config.context - len(prompt.rows)
    assert torch.equal(said[0][0][:until_full], said[8][0][:until_full])
    assert not torch.equal(said[8][0][-10:], said[0][0][-10:])
    assert not torch.equal(said[8][0][-10:], said[8][1][-10:]), "what is pinned still matters"


def test_pinned_keys_lie_just_before_the_window(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """However far a conversation has gone, a pinned key is as far away as if the window began right behind it."""
    transformer = small_lm.transformer
    x = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([True])
    with torch.inference_mode():
        state = transformer.new_state(1, pins=3)
        transformer.prefill(x[:, :3], state, 0, 0)
        transformer.pin(state, 0, 3)
        for t in range(3, 40):
            y = transformer(x[:, t : t + 1], state, mask)
        # One layer alone sees nothing but positions: compare it with a pass over the pinned ones and the window.
        window = torch.cat([x[:, :3], x[:, 31:40]], dim=1)  # 12 positions, the context
        layers = transformer.layers
        transformer.layers = layers[:1]
        try:
            short = transformer.new_state(1, pins=3)
            transformer.prefill(x[:, :3], short, 0, 0)
            transformer.pin(short, 0, 3)
            for t in range(3, 40):
                y = transformer(x[:, t : t + 1], short, mask)
            torch.testing.assert_close(y[:, 0], transformer(window)[:, -1], rtol=1e-4, atol=1e-4)
        finally:
            transformer.layers = layers


def test_forced_streams(moshi: Moshi) -> None:
    """Forced tokens are those of the step and of what follows, also within the depth transformer; others are drawn."""
    mask = torch.tensor([True, True])
    for slot in range(2):
        moshi.reset(slot, Sampling(), 9)
    free = torch.full((2, 17), NOT_FORCED)
    audio = frames(6)[:, None, None].expand(-1, 2, 1, -1)
    for t, frame in enumerate(audio[:5]):
        forced = free.clone()
        forced[1, 0], forced[1, 3] = 40 + t, 60
        step = moshi.step(frame, mask, forced)
        assert step.row[1, 0] == 40 + t
        assert step.row[1, 3] == 60
        assert (step.row[:, :9] >= 0).all()
    assert not torch.equal(step.row[0, :9], step.row[1, :9])
    given = free.clone()
    given[0, 9:] = 7
    before = [tensor[0].clone() for tensor in slot_tensors(moshi.encoder_state)]
    step = moshi.step(audio[5], mask, given)
    assert (step.row[0, 9:] == 7).all()
    assert step.ready.tolist() == [False, True]
    assert (step.tokens[0] == UNGENERATED).all()
    assert not step.audio[0].any()
    assert all(torch.equal(a, b[0]) for a, b in zip(before, slot_tensors(moshi.encoder_state), strict=True))


def test_not_forced_is_free(moshi: Moshi) -> None:
    """A step with nothing forced is a step without ``forced``."""
    audio = frames(8)
    for slot in range(2):
        moshi.reset(slot, Sampling(), 3)
    free = talk(moshi, 0, audio)
    nothing = torch.full((2, 17), NOT_FORCED)
    mask = torch.tensor([False, True])
    for frame, expected in zip(audio, free, strict=True):
        step = moshi.step(frame.expand(2, 1, -1), mask, nothing)
        assert torch.equal(step.row[1:], expected.row)
        assert torch.equal(step.tokens[1:], expected.tokens)
