import torch
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.lm.delays import UNGENERATED, GridState, TokenGrid

CONFIG = LanguageModelConfig(text_card=900, card=900, n_q=4, dep_q=2, delays=(0, 0, 1, 0, 1))
INITIAL = [900, 900, 900, 900, 900]
CPU = torch.device("cpu")
ON, OFF = torch.tensor([True]), torch.tensor([False])


def step(grid: TokenGrid, state: GridState, n: int, mask: Tensor) -> tuple[list[int], list[int], bool]:
    """Hear user codes 300 + n and 400 + n, then say text n, codes 100 + n and 200 + n."""
    grid.hear(state, torch.tensor([[300 + n, 400 + n]]), mask)
    inputs = grid.inputs(state, mask)
    tokens, ready = grid.say(state, torch.tensor([n]), torch.tensor([[100 + n, 200 + n]]), mask)
    return inputs[0].tolist(), tokens[0].tolist(), bool(ready)


def test_columns_follow_the_delays() -> None:
    """Step n reads what step n - 1 said, the frame just heard and, delayed by one, the acoustic code before it."""
    grid = TokenGrid(CONFIG, CPU)
    state = grid.new_state(1)
    seen = [step(grid, state, n, ON) for n in range(6)]
    assert seen[0] == (INITIAL, [UNGENERATED] * 5, False)
    assert seen[1] == ([0, 100, 900, 301, 900], [0, 100, 201, 301, 401], True)
    for n in range(2, 6):
        inputs, tokens, ready = seen[n]
        assert inputs == [n - 1, 99 + n, 199 + n, 300 + n, 399 + n]
        assert tokens == [n - 1, 99 + n, 200 + n, 300 + n, 400 + n]
        assert ready


def test_masked_slot_reads_initial_tokens_and_keeps_its_place() -> None:
    """A masked step reads only initial tokens, emits nothing, and leaves the slot where it was."""
    grid = TokenGrid(CONFIG, CPU)
    state, twin = grid.new_state(1), grid.new_state(1)
    for n in range(5):
        assert step(grid, state, 70 + n, OFF) == (INITIAL, [UNGENERATED] * 5, False)
        assert step(grid, state, n, ON) == step(grid, twin, n, ON)


def test_without_delays_the_first_step_is_complete() -> None:
    """A model without delays emits from its first step on: the frame after the one it heard."""
    grid = TokenGrid(LanguageModelConfig(text_card=900, card=900, n_q=4, dep_q=2, delays=(0,) * 5), CPU)
    _, tokens, ready = step(grid, grid.new_state(1), 0, ON)
    assert (tokens, ready) == ([0, 100, 200, UNGENERATED, UNGENERATED], True)


def test_larger_delays_wait_longer() -> None:
    """With acoustic codes two steps late, the first complete frame comes with the third step."""
    grid = TokenGrid(LanguageModelConfig(text_card=900, card=900, n_q=4, dep_q=2, delays=(0, 0, 2, 0, 2)), CPU)
    state = grid.new_state(1)
    seen = [step(grid, state, n, ON) for n in range(5)]
    assert [ready for *_, ready in seen] == [False, False, True, True, True]
    assert seen[4][1] == [2, 102, 204, 303, 403]
