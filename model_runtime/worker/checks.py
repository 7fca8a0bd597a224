"""What a field of a message may be: checks that return it, or say what would be right. No input or output."""

import math
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], Any]
"""Returns the value as the dataclass holds it, or raises ``ValueError`` with what would be right."""


def brief(value: object) -> str:
    """A value as an error names it, at most 40 characters."""
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def whole(low: int, high: int) -> Check:
    """A whole number within these bounds."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}; got {brief(value)}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """A finite number within these bounds, as a float."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}; got {brief(value)}")
        return float(value)

    return check


def text(longest: int) -> Check:
    """Text of at most so many characters."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"expected at most {longest} characters of text; got {brief(value)}")
        return value

    return check


def pcm(*sizes: int) -> Check:
    """Bytes of one of these sizes."""

    def check(value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) not in sizes:
            got = f"{len(value)} bytes" if isinstance(value, bytes) else brief(value)
            raise ValueError(f"expected {' or '.join(map(str, sizes))} bytes; got {got}")
        return value

    return check


def blocks(size: int, most: int) -> Check:
    """Bytes of whole blocks of a size, at most so many."""

    def check(value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) % size or len(value) > size * most:
            got = f"{len(value)} bytes" if isinstance(value, bytes) else brief(value)
            raise ValueError(f"expected at most {most} times {size} bytes; got {got}")
        return value

    return check


def yes_or_no(value: Any) -> bool:
    """A truth value."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false; got {brief(value)}")
    return value
