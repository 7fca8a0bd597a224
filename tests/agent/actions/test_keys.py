"""agent/actions/keys.py: the longest sequence wins, and nobody waits without need."""

from agent.actions.keys import BETWEEN_KEYS_S, Keys
from tests.agent.actions.scripted_call import action


def _keys(*patterns: str) -> Keys:
    return Keys([action(f"a{n}", {"say": "x"}, when={"dtmf": pattern}) for n, pattern in enumerate(patterns)])


def _press(keys: Keys, sequence: str, at: float = 0.0, every_s: float = 0.3) -> list[str]:
    """What the keys set off, without waiting after the last one."""
    found = []
    for number, key in enumerate(sequence):
        found += keys.pressed(key, at + number * every_s)
    return [match.matched for match in found]


def _after(keys: Keys, at: float) -> list[str]:
    return [match.matched for match in keys.due(at)]


def test_single_keys_never_wait() -> None:
    """A menu of single keys is answered at once, each key once."""
    keys = _keys("1", "2", "[3-9]")
    assert _press(keys, "12x31"[:2] + "31") == ["1", "2", "3", "1"]
    assert keys.due_at is None


def test_the_longest_wins() -> None:
    """With ``1`` and ``12#`` a 1 waits for what may follow; the longer one takes it with it."""
    keys = _keys("1", "12#")
    assert _press(keys, "12#") == ["12#"]
    assert keys.due_at is None
    assert _press(keys, "1") == []
    assert keys.due_at == BETWEEN_KEYS_S
    assert _after(keys, 1.9) == []
    assert _after(keys, 2.0) == ["1"]
    assert keys.due_at is None


def test_what_comes_behind_a_match_is_looked_at_anew() -> None:
    """1, 2, 3 quickly, with sequences of which none comes about, are three matches."""
    keys = _keys("1", "2", "3", "1239")
    assert _press(keys, "123") == []
    assert _after(keys, 5.0) == ["1", "2", "3"]
    assert _press(keys, "1") == []
    assert _press(keys, "7", at=9.0) == ["1"], "the pause before it was long enough"


def test_a_number_of_any_length_ends_with_a_pause() -> None:
    """``[0-9]+`` is taken whole."""
    keys = _keys("[0-9]+")
    assert _press(keys, "0123") == []
    assert _after(keys, 9.0) == ["0123"]


def test_keys_are_taken_by_the_match() -> None:
    """Four digits and a hash: each run has its own."""
    keys = _keys("[0-9]{4}#")
    assert _press(keys, "1234#5678#") == ["1234#", "5678#"]
    assert _press(keys, "99#1234#") == ["1234#"]


def test_an_endless_sequence_is_bounded() -> None:
    """Someone leaning on a key costs neither memory nor time, and keys are still heard afterwards."""
    keys = _keys("5", "([0-9]+)+#")
    found = _press(keys, "7" * 500, every_s=0.1)
    assert found == []
    assert _press(keys, "5", at=100) + _after(keys, 200) == ["5"]
