"""The grammar of phrasings."""

import pytest

from model_runtime.training.synthetic.grammar import GrammarError, expand, is_held


def test_choices_nest_and_multiply() -> None:
    """All combinations, each once, without stray spaces."""
    assert expand("(a|b|) (c (d|e)|f)", {}) == ["a c d", "a c e", "a f", "b c d", "b c e", "b f", "c d", "c e", "f"]
    assert expand("(a|a)", {}) == ["a"]
    assert expand("plain <day>", {}) == ["plain <day>"]


def test_macros_use_macros() -> None:
    """A macro may stand in another; one that is missing is told."""
    assert expand("{x} c", {"x": "(a|{y})", "y": "b"}) == ["a c", "b c"]
    with pytest.raises(GrammarError, match="no macro z"):
        expand("{z}", {})


@pytest.mark.parametrize("rule", ["(a", "a)", "((a)", "(a))"])
def test_brackets_must_fit(rule: str) -> None:
    """A rule with a bracket too many or too few is refused."""
    with pytest.raises(GrammarError, match="bracket"):
        expand(rule, {})


def test_a_twelfth_is_held_out_for_ever() -> None:
    """The hash decides, the same way on every machine."""
    held = [n for n in range(1200) if is_held(f"sentence {n}")]
    assert 70 < len(held) < 130
    assert held[:3] == [n for n in range(held[2] + 1) if is_held(f"sentence {n}")]
    assert is_held("what time do you open") is False
