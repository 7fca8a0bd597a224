from itertools import pairwise

import pytest

from model_runtime.lm.delays import NOT_FORCED
from model_runtime.speech_plan import Row, Script, find_start, plan_recording, plan_speech
from model_runtime.text import EPAD, PAD, TextTokenizer
from model_runtime.tiny import TOKENIZER


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """The tiny model's."""
    return TextTokenizer(TOKENIZER)


def test_a_plan_says_the_text(tokenizer: TextTokenizer) -> None:
    """Every piece is there in order, each word after EPAD or without a gap after the one before."""
    text = "Good morning, you have reached Denwa. How can I help?"
    plan = texts(plan_speech(text, tokenizer))
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


def texts(plan: list[Row]) -> list[int]:
    """The text tokens of a plan."""
    return [row[0] for row in plan]


def said(script: Script, *previous: int) -> list[int | None]:
    """The text token that each next step is given, None where it is free; told of as long as there is a text to say."""
    given: list[int | None] = []
    for token in previous:
        pending = not script.idle
        row, told = script.next_row(token)
        assert told == pending
        given.append(row[0] if row else None)
    return given


def test_a_greeting_is_said_at_once() -> None:
    """What a script begins with is forced from the first step on, then the model is free."""
    script = Script([(EPAD,), (40,), (41,)])
    assert said(script, -2, 0, 40) == [EPAD, 40, 41]
    assert script.idle
    assert said(script, 41) == [None]


def test_a_text_waits_for_the_end_of_a_word() -> None:
    """A text added in mid-call begins after padding, or after two seconds; a second one waits for the first."""
    script = Script()
    script.add([(EPAD,), (40,), (PAD,)])
    script.add([(EPAD,), (50,)])
    assert said(script, 33, 34, PAD) == [None, None, EPAD]
    assert said(script, EPAD, 40, PAD, EPAD) == [40, PAD, EPAD, 50]
    assert script.idle

    script.add([(EPAD,)])
    assert said(script, *[33] * 26) == [None] * 25 + [EPAD]


def test_a_held_script_waits_for_a_word() -> None:
    """It keeps silent, which is no speech, until the first text, even an empty one; what was held comes first."""
    held: list[Row] = [(EPAD,), (40,), (PAD,)]
    script = Script(held, held=True)
    assert [script.next_row(33) for _ in range(3)] == [((PAD,), False)] * 3
    script.add([(EPAD,), (50,)])
    assert said(script, PAD, EPAD, 40, PAD, EPAD, 50) == [EPAD, 40, PAD, EPAD, 50, None]

    script = Script(held, held=True)
    script.add([])
    assert said(script, PAD, EPAD, 40) == [EPAD, 40, PAD]
    assert script.idle

    script = Script(held=True)
    assert not script.idle
    script.add([])
    assert script.idle


FRAMES = [[100 + frame, 200 + frame] for frame in range(20)]
"""Semantic and acoustic codes of a recording."""
DELAYS = (0, 0, 1)


def test_a_recording_is_forced_with_its_delays(tokenizer: TextTokenizer) -> None:
    """Each code stands where its delay puts it; in the first and in the last step some streams are free."""
    plan = plan_recording("", tokenizer, FRAMES, DELAYS)
    assert len(plan) == 21
    assert [row[1] for row in plan] == [*range(100, 120), NOT_FORCED]
    assert [row[2] for row in plan] == [NOT_FORCED, *range(200, 220)]
    assert texts(plan) == [PAD] * 20 + [NOT_FORCED]


def test_the_words_of_a_recording_are_spread_over_it(tokenizer: TextTokenizer) -> None:
    """All pieces are there in order, each word after EPAD or a word, and it begins where its length puts it."""
    frames = [[1, 2]] * 60
    text = "go internationally now please"
    plan = texts(plan_recording(text, tokenizer, frames, DELAYS))
    assert plan[60] == NOT_FORCED
    assert "".join(tokenizer.piece(token) for token in plan).split() == text.split()
    starts = [step + 1 for step, token in enumerate(plan) if token == EPAD]
    assert len(starts) == 4
    letters = [0, 3, 19, 23]
    assert starts == pytest.approx([1 + 59 * before / 30 for before in letters], abs=2)


@pytest.mark.parametrize("frames", [1, 3, 12, 25])
def test_words_are_never_lost(tokenizer: TextTokenizer, frames: int) -> None:
    """Words for which a recording has hardly room follow one another; what has none runs on behind it."""
    text = "good morning good morning good morning"
    plan = plan_recording(text, tokenizer, [[1, 2]] * frames, DELAYS)
    pieces = [piece for token in texts(plan) if (piece := tokenizer.piece(token))]
    assert "".join(pieces).split() == text.split()
    assert len(plan) <= max(frames, len(pieces)) + 1
    assert all(row[1] == NOT_FORCED for row in plan[frames:])


@pytest.mark.parametrize("waited", [0, 1, 7])
@pytest.mark.parametrize("text", ["", "hello there my friend"])
def test_where_a_greeting_began(tokenizer: TextTokenizer, waited: int, text: str) -> None:
    """It is told from the tokens of the steps, wherever in it they end, and however long it was waited for."""
    plan = plan_recording(text, tokenizer, FRAMES, DELAYS)
    lived = [[PAD, 7, step] for step in range(waited)]
    lived += [[9 if token == NOT_FORCED else token for token in row] for row in plan] + [[50, 1, 1]] * 5
    for steps in range(1, len(lived)):
        assert find_start(plan, lived[:steps], steps) == min(waited, steps), steps


def test_where_a_greeting_began_cannot_be_told_for_ever(tokenizer: TextTokenizer) -> None:
    """One that lies before all known steps, or does not fit them, counts as begun with the conversation."""
    plan = plan_speech("hello there", tokenizer)
    assert find_start(plan, [[50, 1, 1]] * 30, 5_000) == 0
    assert find_start(plan, [[50, 1, 1]] * 3, 3) == 0
