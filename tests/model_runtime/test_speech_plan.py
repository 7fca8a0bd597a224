from itertools import pairwise

import pytest

from model_runtime.lm.delays import NOT_FORCED
from model_runtime.speech_plan import Script, plan_speech
from model_runtime.text import EPAD, PAD, TextTokenizer
from model_runtime.tiny import TOKENIZER


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """The tiny model's."""
    return TextTokenizer(TOKENIZER)


def test_a_plan_says_the_text(tokenizer: TextTokenizer) -> None:
    """Every piece is there in order, each word after EPAD or without a gap after the one before."""
    text = "Good morning, you have reached Denwa. How can I help?"
    plan = plan_speech(text, tokenizer)
    assert "".join(tokenizer.piece(token) for token in plan).split() == text.split()
    assert plan[0] == EPAD
    for before, token in pairwise(plan):
        if before == EPAD:
            assert tokenizer.piece(token).startswith(" "), "EPAD announces a word"
        if before == PAD:
            assert token in (PAD, EPAD), "nothing follows padding unannounced"


def test_a_plan_keeps_the_pace_of_speech(tokenizer: TextTokenizer) -> None:
    """About 160 words a minute, and pauses after punctuation."""
    words = "which of these would you like to hear about today my friend"
    plan = plan_speech(words, tokenizer)
    assert 130 < len(words.split()) / (len(plan) * 0.08 / 60) < 200
    assert len(plan_speech(words.replace("hear", "hear."), tokenizer)) >= len(plan) + 6


def test_nothing_to_say(tokenizer: TextTokenizer) -> None:
    """A text without words is no plan."""
    assert plan_speech("  \n ", tokenizer) == []


def test_a_greeting_is_said_at_once() -> None:
    """What a script begins with is forced from the first step on, then the model is free."""
    script = Script([EPAD, 40, 41])
    assert [script.next_token(previous) for previous in (-2, 0, 40)] == [EPAD, 40, 41]
    assert script.idle
    assert script.next_token(41) == NOT_FORCED


def test_a_text_waits_for_the_end_of_a_word() -> None:
    """A text added in mid-call begins after padding, or after two seconds; a second one waits for the first."""
    script = Script()
    script.add([EPAD, 40, PAD])
    script.add([EPAD, 50])
    assert [script.next_token(previous) for previous in (33, 34, PAD)] == [NOT_FORCED, NOT_FORCED, EPAD]
    assert [script.next_token(previous) for previous in (EPAD, 40, PAD, EPAD)] == [40, PAD, EPAD, 50]
    assert script.idle

    script.add([EPAD])
    forced = [script.next_token(33) for _ in range(26)]
    assert forced == [NOT_FORCED] * 25 + [EPAD]
