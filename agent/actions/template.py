"""Texts with variables in them: ``{NAME}``; a brace itself is written ``{{`` or ``}}``. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Final

_PARTS: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|\{")


class UnknownVariable(Exception):
    """A text asks for a variable that is not set, or has a brace without its other one; the message says which."""


def expand(text: str, variables: Mapping[str, str], quote: Callable[[str], str] = str) -> str:
    """The text with the values of its variables, each through ``quote``. Raises ``UnknownVariable``."""

    def value(part: re.Match[str]) -> str:
        if part[0] in ("{{", "}}"):
            return part[0][0]
        name = part[1]
        if name is None:
            raise UnknownVariable("a { has no }; a brace itself is written {{")
        if name not in variables:
            raise UnknownVariable(f"there is no variable {name!r}")
        return quote(variables[name])

    return _PARTS.sub(value, text)
