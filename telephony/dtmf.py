"""The keys of a telephone. Pure."""

import re
from typing import Final

MAX_DIGITS: Final = 31
"""Keys that may be pressed at once: PJSIP queues no more."""

_DIGITS: Final = re.compile(rf"[0-9A-D*#]{{1,{MAX_DIGITS}}}")


def check_digits(digits: str) -> str:
    """Return ``digits`` where each is a key (RFC 4733, section 3.2); raises ``ValueError``, which repeats none."""
    if not _DIGITS.fullmatch(digits):
        raise ValueError(f"1 to {MAX_DIGITS} of 0-9, A-D, * and # can be dialled")
    return digits


def is_key(digit: str) -> bool:
    """Whether this is one key."""
    return len(digit) == 1 and _DIGITS.fullmatch(digit) is not None
