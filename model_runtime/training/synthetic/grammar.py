"""Phrasings by a small grammar: ``(a|b|)`` is a choice, ``{name}`` a macro, ``<slot>`` stays for later. Pure."""

import re
from collections.abc import Mapping
from functools import reduce
from hashlib import sha256
from itertools import product
from typing import Final

_MACRO: Final = re.compile(r"\{(\w+)\}")
_TOKEN: Final = re.compile(r"[(|)]|[^(|)]+")
SLOT: Final = re.compile(r"<(\w+)>")
HELD_SHARE: Final = 12
"""One of so many combinations is held out."""


class GrammarError(ValueError):
    """A rule that is none; the message names it."""


def expand(rule: str, macros: Mapping[str, str]) -> list[str]:
    """All sentences of a rule, each once, in the order of its choices; raises ``GrammarError``."""
    for _ in range(8):  # macros may use macros
        for name in set(_MACRO.findall(rule)):
            if name not in macros:
                raise GrammarError(f"no macro {name} for {rule!r}")
            rule = rule.replace(f"{{{name}}}", macros[name])
    tokens = _TOKEN.findall(rule)
    sentences = _choice(tokens, 0, rule)
    if tokens:
        raise GrammarError(f"a bracket too many in {rule!r}")
    return list(dict.fromkeys(" ".join(each.split()) for each in sentences))


def is_held(sentence: str) -> bool:
    """Whether a combination is held out from training: decided by its hash, the same way for ever."""
    return int.from_bytes(sha256(sentence.encode()).digest()[:4], "big") % HELD_SHARE == 0


def _choice(tokens: list[str], depth: int, rule: str) -> list[str]:
    """The alternatives up to the closing bracket; takes the tokens it has read off the list."""
    alternatives: list[str] = []
    parts: list[list[str]] = []
    while True:
        token = tokens.pop(0) if tokens else None
        if token == "(":
            parts.append(_choice(tokens, depth + 1, rule))
        elif token is None or token in "|)":
            alternatives += _join(parts)
            parts = []
            if token is None and depth:
                raise GrammarError(f"a bracket is open in {rule!r}")
            if token == ")" and not depth:
                raise GrammarError(f"a bracket too many in {rule!r}")
            if token != "|":
                return alternatives
        else:
            parts.append([token])


def _join(parts: list[list[str]]) -> list[str]:
    return [reduce(str.__add__, combination, "") for combination in product(*parts)]
