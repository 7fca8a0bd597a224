"""Key sequences that set actions off. Pure: times are parameters.

The longest match wins. Where more keys could still make a longer one, the match waits for them, for 2 s after the last
key; then it counts, and what was pressed behind it is looked at anew. An agent whose expressions all match single keys
never waits.
"""

import importlib
from collections.abc import Iterable
from typing import Any, Final

from agent.actions.phrases import Match
from agent.actions.timed_pattern import TimedPattern
from config.actions_schema import Action

BETWEEN_KEYS_S: Final = 2.0
"""How long a next key is waited for."""
MAX_KEYS: Final = 32
"""Keys that are remembered."""

_parser: Final[Any] = importlib.import_module("re._parser")  # the standard library's; it alone knows a pattern's width


class Keys:
    """The keys pressed in a call that no action has taken yet. They may be card numbers: nothing here is logged."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self._patterns = [
            (action, TimedPattern(action.name, action.when.dtmf)) for action in actions if action.when.dtmf
        ]
        self._widest = max((_width(action.when.dtmf or "") for action, _ in self._patterns), default=0)
        self._keys = ""
        self._held: tuple[int, int, Action] | None = None
        self.due_at: float | None = None
        """When ``due`` must be called, on the clock of ``pressed``; None: nothing waits."""

    def pressed(self, key: str, at: float) -> list[Match]:
        """What a key sets off; ``at`` in seconds."""
        found = self.due(at)
        if len(self._keys) == MAX_KEYS and self._held:
            found += self._take()
        self._keys = self._keys[-MAX_KEYS + 1 :] + key
        self._look()
        while self._held and not self._may_grow():
            found += self._take()
        self.due_at = at + BETWEEN_KEYS_S if self._held else None
        return found

    def due(self, at: float) -> list[Match]:
        """What counts because no further key came."""
        if self.due_at is None or at < self.due_at:
            return []
        found: list[Match] = []
        while self._held:
            found += self._take()
        self.due_at = None
        return found

    def _look(self) -> None:
        """Hold the longest match that ends with the last key, unless a longer one is held already."""
        end = len(self._keys)
        for start in range(end):
            if self._held and start > self._held[0]:
                return  # it would begin inside of, or behind, what is held
            for action, pattern in self._patterns:
                if pattern.fullmatch(self._keys, start):
                    self._held = (start, end, action)
                    return

    def _may_grow(self) -> bool:
        assert self._held is not None
        return self._widest > len(self._keys) - self._held[0]

    def _take(self) -> list[Match]:
        """Let what is held count, and look at what was pressed behind it as though it came after."""
        assert self._held is not None
        start, end, action = self._held
        match, behind = Match(action, self._keys[start:end]), self._keys[end:]
        self._keys, self._held = "", None
        for key in behind:
            self._keys += key
            self._look()
        return [match]


def _width(pattern: str) -> int:
    """How many keys a pattern can match at the most."""
    return int(_parser.parse(pattern).getwidth()[1])
