"""What must not be written down: the known kinds of it, and how it is blackened. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

_DIGIT: Final = r"(?:\d|zero|oh|one|two|three|four|five|six|seven|eight|nine)"
_SPOKEN: Final = rf"(?<![\w]){_DIGIT}(?:[\s,.\-]*{_DIGIT})"

PATTERNS: Final[Mapping[str, str]] = {
    "card_number": _SPOKEN + r"{11,18}(?!\w)",
    "email": r"[\w.+\-]+(?:@|\s+at\s+)[\w\-]+(?:(?:\.|\s+dot\s+)[\w\-]+)+",
    "iban": r"\b[A-Z]{2}\s?\d{2}(?:\s?[A-Z0-9]{4}){2,7}(?:\s?(?=[A-Z]*\d)[A-Z0-9]{1,3})?\b",
    "phone": r"\+?" + _SPOKEN + r"{6,14}(?!\w)",
    "ssn": r"\b\d{3}[\s\-]?\d{2}[\s\-]?\d{4}\b",
}
"""The kinds that ``privacy.redact`` knows; digits count as digits and as English words."""


def check_pattern(pattern: str) -> str:
    """A regular expression; raises ``ValueError`` with what is wrong with it."""
    try:
        if re.compile(pattern).match(""):
            raise ValueError(f"must not match nothing at all; got {pattern!r}")
    except re.error as error:
        raise ValueError(f"is no regular expression ({error}); got {pattern!r}") from None
    return pattern


class Redactor:
    """Blackens what its patterns find. An empty one changes nothing and is false."""

    def __init__(self, redact: Iterable[str] = (), patterns: Mapping[str, str] | None = None) -> None:
        named = {name: PATTERNS[name] for name in redact} | dict(patterns or {})
        self._patterns = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in named.items()]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def redact(self, text: str) -> str:
        """The text with ``[NAME]`` in the place of each thing found."""
        for name, pattern in self._patterns:
            text = pattern.sub(f"[{name}]", text)
        return text

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Where things were found: start, end and name, in order, none overlapping another."""
        found = sorted(
            (
                (match.start(), match.end(), name)
                for name, pattern in self._patterns
                for match in pattern.finditer(text)
            ),
            key=lambda span: (span[0], -span[1]),  # of two that begin together the longer one tells what it is
        )
        kept: list[tuple[int, int, str]] = []
        for start, end, name in found:
            if kept and start < kept[-1][1]:
                first, last, label = kept[-1]
                kept[-1] = (first, max(last, end), label)
            else:
                kept.append((start, end, name))
        return kept
