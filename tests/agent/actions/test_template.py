"""agent/actions/template.py."""

import pytest

from agent.actions.template import UnknownVariable, expand


def test_names_become_values() -> None:
    """Each ``{NAME}`` its value, never expanded again; doubled braces are braces."""
    variables = {"name": "{Ann}", "n.1": "2"}
    assert expand("Hi {name}, {n.1}{n.1} {{name}} }}{{", variables) == "Hi {Ann}, 22 {name} }{"
    assert expand("a }b", variables) == "a }b"
    assert expand("/x/{name}", variables, lambda value: value[1:-1]) == "/x/Ann"


@pytest.mark.parametrize(
    ("text", "why"), [("{no}", "'no'"), ("{}", "''"), ("a { b", "has no }"), ("{a{name}", "has no }")]
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    """An unknown name and a lone brace are named."""
    with pytest.raises(UnknownVariable, match=why):
        expand(text, {"name": "x"})
