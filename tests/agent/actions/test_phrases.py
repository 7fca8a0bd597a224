"""agent/actions/phrases.py: what is said is found however it is split, and found once."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.actions.phrases import Phrases
from tests.agent.actions.scripted_call import action

SAY = {"say": "x"}


def _words(*phrases: str) -> Phrases:
    return Phrases([action("a", SAY, when={"agent_says": list(phrases)})])


def _regex(pattern: str) -> Phrases:
    return Phrases([action("a", SAY, when={"agent_says_regex": pattern})])


def _found(phrases: Phrases, pieces: list[str], *, flush: bool = True) -> list[str]:
    found = [match for piece in pieces for match in phrases.heard(piece)]
    return [match.matched for match in found + (phrases.flush() if flush else [])]


def _cuts(text: str) -> list[list[str]]:
    """Every way to split a text into pieces."""
    splits = []
    for cut in itertools.product([False, True], repeat=len(text) - 1):
        pieces, piece = [], text[0]
        for character, here in zip(text[1:], cut, strict=True):
            if here:
                pieces.append(piece)
                piece = character
            else:
                piece += character
        splits.append([*pieces, piece])
    return splits


def test_a_phrase_is_found_once_in_every_split() -> None:
    """All 8,192 ways in which " Good bye, Al." can come."""
    for pieces in _cuts(" Good bye, Al."):
        assert _found(_words("good BYE"), pieces) == ["good BYE"], pieces
        assert _found(_regex(r"good\s+bye\b"), pieces) == ["Good bye"], pieces


_TEXT = st.text(st.sampled_from("ab b,.'  é"), max_size=30)


@given(_TEXT, st.lists(st.integers(0, 30), max_size=8), st.sampled_from(["a", "a b", "ab", "b b", "aé"]))
@settings(max_examples=300, deadline=None)
def test_pieces_do_not_matter(text: str, cuts: list[int], phrase: str) -> None:
    """Whatever the text and its pieces are, what is found is the same as in one piece, in the same order."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[first:last] for first, last in itertools.pairwise(edges)]
    assert "".join(pieces) == text
    assert _found(_words(phrase), pieces) == _found(_words(phrase), [text])
    for pattern in (phrase, rf"\b{phrase}\b", r"[ab]+", r"a|ab", r"b$"):
        assert _found(_regex(pattern), pieces) == _found(_regex(pattern), [text])


@pytest.mark.parametrize(
    ("phrase", "text", "count"),
    [
        ("by", "goodbye, bye", 0),
        ("bye", "bye bye. BYE!", 3),
        ("bye bye", "bye bye bye", 1),
        ("bye bye", "bye bye bye bye", 2),
        ("good bye", "Good-bye", 1),
        ("don't hang up", "Don’t  hang\n up", 1),  # noqa: RUF001
        ("dont", "don't", 1),
        ("STRASSE", "Straße", 1),
        ("café", "cafe\u0301", 1),
        ("one moment", "one. Moment", 1),
        ("one moment", "one new moment", 0),
        ("電話", "お電話ありがとう", 1),
        ("!!!", "!!! ?", 0),
    ],
)
def test_what_counts_as_the_same(phrase: str, text: str, count: int) -> None:
    """Case, punctuation, apostrophes, spaces and ways to encode a letter do not matter; whole words do."""
    assert len(_found(_words(phrase), [text])) == count


def test_the_last_word_waits_until_it_is_complete() -> None:
    """A "by" counts neither before its end is known, nor when it becomes "bye"."""
    phrases = _words("by")
    assert _found(phrases, [" stand", " by"], flush=False) == []
    assert _found(phrases, ["e"]) == []
    assert _found(phrases, [" by"], flush=False) == []
    assert [match.matched for match in phrases.flush()] == ["by"]
    assert phrases.flush() == []
    assert _found(phrases, [" by", " the"], flush=False) == ["by"]
    assert _found(_regex(r"\bby\b"), [" by", "e by", " now"], flush=False) == ["by"]


def test_phrases_of_one_action_that_overlap_count_once() -> None:
    """An action with "bye" and "good bye" runs once for "good bye"."""
    assert _found(_words("bye", "good bye"), ["good bye now good bye"]) == ["bye", "bye"]
    assert _found(_words("good bye", "bye"), ["good bye now"]) == ["good bye"]


def test_an_expression_takes_what_belongs_to_it() -> None:
    """A number at the end waits for its last digit; what was matched is not matched again."""
    assert _found(_regex(r"order (\d+)"), [" order", " 1", "2", "3", ".", " order 4"]) == ["order 123", "order 4"]
    assert _found(_regex(r"tax(es)?"), [" tax", "es", " tax"]) == ["taxes", "tax"]
    assert _found(_regex(r"don('t)?"), ["don", "'", "t "]) == ["don't"]
    assert _found(_regex(r"x*"), ["axxb"]) == [], "what can match nothing sets off nothing"
    assert _found(_regex(r"^hello"), ["hello", " hello"]) == ["hello"]


def test_a_match_does_not_come_back_when_the_text_moves_on() -> None:
    """Long after it an occurrence is still counted once, and no new one arises at the edge of what is remembered."""
    text = "well goodbye and " + "so on and so forth " * 60
    for pattern in (r"\bbye\b", r"^bye"):
        assert _found(_regex(pattern), [text]) == []
    assert _found(_regex("goodbye"), [text]) == ["goodbye"]
    assert len(_found(_regex("so on"), [text])) == 60


@pytest.mark.parametrize("pattern", [r"(\w+\s?)+!", r"(a+)+\d", r"([a-z ]*)*#", r"(.*)*x"])
def test_an_expression_that_explodes_is_switched_off(pattern: str) -> None:
    """A catastrophic expression costs the call a fraction of a second once, and nothing afterwards."""
    phrases = _regex(pattern)
    began = time.thread_time()
    _found(phrases, ["aaaaaaaaaaaaaaa", "aaaaaaaaaaaa of incomprehensibilities and so on"] * 20)
    assert time.thread_time() - began < 1.0
