"""model_runtime/training/closed_loop.py: how dialogues are judged."""

from dataclasses import replace

import pytest
import torch

from model_runtime.tiny import tiny_language_model
from model_runtime.training.closed_loop import Asked, Scores, _judge
from model_runtime.training.samples import converse, converse_with_all
from model_runtime.training.synthetic.script import World

WORLD = World.load()
BEGINS, ENDS = 60, 80
ANSWER = "We are open from nine to five."
ASKED = Asked(torch.zeros(8, 200, dtype=torch.long), "hours", BEGINS, ENDS, ANSWER)
GREETING = [(3 + 4 * n, word) for n, word in enumerate(WORLD.greeting.split())]


def said(text: str, frame: int) -> list[tuple[int, str]]:
    """Words four frames apart."""
    return [(frame + 4 * n, word) for n, word in enumerate(text.split())]


def judged(words: list[tuple[int, str]]) -> Scores:
    """The scores of one dialogue."""
    return _judge([ASKED], [words], WORLD)


@pytest.mark.parametrize(
    ("words", "intent", "exact", "early", "silent"),
    [
        (said(ANSWER, ENDS + 3), 1, 1, 0, 0),
        (said("We We are open today.", ENDS + 3), 1, 0, 0, 0),  # a word said twice counts once
        (said("The doctor is in.", ENDS + 3), 0, 0, 0, 0),
        (said(ANSWER, ENDS - 5), 1, 1, 1, 0),
        (said(ANSWER, ENDS + 31), 1, 1, 0, 1),
        ([], 0, 0, 0, 1),
    ],
)
def test_an_answer_is_right_exact_early_or_missing(
    words: list[tuple[int, str]], intent: int, exact: int, early: int, silent: int
) -> None:
    """Each by its own rule, whatever the others say."""
    scores = judged(GREETING + words)
    assert (scores.greeting, scores.intent, scores.exact, scores.early, scores.silent) == (
        1,
        intent,
        exact,
        early,
        silent,
    )
    assert scores.by_intent == {"hours": intent}


def test_the_gap_runs_from_the_last_word_to_the_first() -> None:
    """In seconds, the median of those that were answered."""
    answers = [said(ANSWER, ENDS + frames) for frames in (2, 5, 20)]
    scores = _judge([ASKED] * 4, [GREETING + each for each in [*answers, []]], WORLD)
    assert scores.gap_s == pytest.approx(5 * 0.08)
    assert scores.silent == 0.25


def test_a_greeting_must_be_whole() -> None:
    """A word that is missing or too many is wrong."""
    assert judged(GREETING[1:]).greeting == 0
    assert judged([*GREETING, (BEGINS - 1, "well")]).greeting == 0
    assert _judge([replace(ASKED, begins=10)], [GREETING], WORLD).greeting == 0, "it was cut off by the question"


def test_callers_do_not_hear_each_other() -> None:
    """Several at once are answered as each alone."""
    lm = tiny_language_model()
    users = torch.randint(0, lm.config.card, (3, 8, 12), generator=torch.Generator().manual_seed(5))
    together = converse_with_all(lm, users)
    for row, user in zip(together, users, strict=True):
        assert torch.equal(row, converse(lm, user))
