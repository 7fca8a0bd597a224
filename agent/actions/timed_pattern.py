"""A regular expression that may not hold up the calls. Pure, but for the clock that measures it.

Python's ``re`` cannot be interrupted, so each search is short (the text is bounded) and measured. Whoever searches does
so at every character that comes: an expression whose time explodes is caught while it still is a matter of
milliseconds, and is not used again in the call.
"""

import re
import time
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_LIMIT_S: Final = 0.02

_Find = Callable[[str, int], "re.Match[str] | None"]


class TimedPattern:
    """One action's expression; case is ignored. Once it took too long it finds nothing any more."""

    def __init__(self, name: str, pattern: str) -> None:
        self.name = name
        self.spent = False
        """Whether it took too long."""
        self._pattern = re.compile(pattern, re.IGNORECASE)

    def search(self, text: str, start: int) -> re.Match[str] | None:
        """The first match at or behind ``start``."""
        return self._timed(self._pattern.search, text, start)

    def fullmatch(self, text: str, start: int) -> re.Match[str] | None:
        """A match of everything from ``start`` on."""
        return self._timed(self._pattern.fullmatch, text, start)

    def _timed(self, find: _Find, text: str, start: int) -> re.Match[str] | None:
        if self.spent:
            return None
        began = time.thread_time()
        match = find(text, start)
        if time.thread_time() - began > _LIMIT_S:
            self.spent = True
            log.error("action.regex_too_slow", action=self.name, limit_s=_LIMIT_S)
        return match
