import pytest
import torch
from torch import Tensor

from model_runtime.text import EPAD, PAD
from model_runtime.text_bias import RECENT, TextBias

CPU = torch.device("cpu")
VOCABULARY = 40


def logits(rows: int = 1) -> Tensor:
    """Random ones, positive and negative."""
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(1))


def say(bias: TextBias, *tokens: int) -> None:
    """Note steps of slot 0 with these text tokens; the other slots are masked."""
    mask = torch.arange(len(bias.pad_bias)) == 0
    for token in tokens:
        bias.note(torch.full((len(mask),), token), mask)


def penalised(given: Tensor, tokens: set[int], penalty: float) -> Tensor:
    """The rule, token by token."""
    expected = given.clone()
    for token in tokens:
        value = expected[0, token]
        expected[0, token] = value / penalty if value > 0 else value * penalty
    return expected


def test_defaults_change_nothing() -> None:
    """Without settings logits stay as they are to the bit, whatever was said."""
    bias = TextBias.allocate(2, CPU)
    say(bias, 5, PAD, EPAD, 6)
    assert torch.equal(bias.apply(logits(2)), logits(2))


def test_the_bias_is_pads() -> None:
    """It is added to PAD's logit, in its own slot alone."""
    bias = TextBias.allocate(2, CPU)
    bias.reset(1, 2.5, 1.0)
    expected = logits(2)
    expected[1, PAD] += 2.5
    assert torch.equal(bias.apply(logits(2)), expected)


def test_what_was_said_lately_is_penalised_once() -> None:
    """Tokens of the last 64 steps, but never PAD and EPAD, and no more for being said twice."""
    bias = TextBias.allocate(1, CPU)
    bias.reset(0, 0.0, 1.5)
    say(bias, 4, *[PAD] * (RECENT - 4), 5, 5, 6, EPAD)
    torch.testing.assert_close(bias.apply(logits()), penalised(logits(), {5, 6}, 1.5))
    say(bias, *[PAD] * (RECENT - 4))
    torch.testing.assert_close(bias.apply(logits()), penalised(logits(), {5, 6}, 1.5))
    say(bias, *[PAD] * 4)
    assert torch.equal(bias.apply(logits()), logits())


def test_tokens_that_cannot_be_drawn_may_be_forced() -> None:
    """A forced token without a logit penalises nothing."""
    bias = TextBias.allocate(1, CPU)
    bias.reset(0, 0.0, 10.0)
    say(bias, VOCABULARY, VOCABULARY + 7)
    assert torch.equal(bias.apply(logits()), logits())


@pytest.mark.parametrize("said", [1, RECENT - 1, RECENT, RECENT + 30])
def test_recalled_equals_lived_through(said: int) -> None:
    """A slot that is told what was said is where one is that said it."""
    tokens = [4 + n % 30 for n in range(said)]
    lived, told = TextBias.allocate(1, CPU), TextBias.allocate(1, CPU)
    say(lived, *tokens)
    told.recall(0, torch.tensor(tokens))
    assert torch.equal(told.recent, lived.recent)


def test_slots_are_their_own() -> None:
    """A step leaves masked slots as they are, a reset the others, and rows share memory."""
    bias = TextBias.allocate(2, CPU)
    bias.reset(0, 1.0, 2.0)
    bias.reset(1, 3.0, 4.0)
    say(bias, 7)
    assert bias.recent[1].eq(EPAD).all()
    assert bias.rows(1).recent[0, -1] == 7
    bias.reset(1, 0.0, 1.0)
    assert (float(bias.pad_bias[0]), float(bias.penalty[0]), int(bias.recent[0, -1])) == (1.0, 2.0, 7)
    bias.reset(0, 0.0, 1.0)
    assert bias.recent.eq(EPAD).all()
