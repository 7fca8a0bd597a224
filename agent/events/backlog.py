"""What waits for one receiver of webhooks, and whose turn it is. Pure: times are parameters.

The events of a call go one after the other. A receiver that takes them gets those of eight calls at a time; one that
fails gets a single event at a time, of another call each time, with longer and longer pauses.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

AT_ONCE: Final = 8
"""Calls whose events are on their way at one time."""
MAX_RETRY_AFTER_S: Final = 600.0
"""The longest pause that a receiver's Retry-After can ask for."""


class Verdict(Enum):
    """What became of one try."""

    ACCEPTED = auto()
    REFUSED = auto()
    """The receiver is well, but will never take this event."""
    FAILED = auto()
    """To be tried again."""
    GONE = auto()
    """Too old, or no longer stored; the receiver was not asked."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses after failures: doubled each time, up to ``longest_s``, of which half is drawn by chance."""

    first_s: float = 0.5
    longest_s: float = 60.0
    chance: Callable[[], float] = random.random

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures, 1 or more."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32)) * (1 + self.chance()) / 2


@dataclass(slots=True)
class _Queue:
    """The events of one call; positions in the journal, ascending. The first one may be on its way."""

    positions: deque[int] = field(default_factory=deque)
    failures: int = 0
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """An event to be sent now."""

    call: str
    position: int
    begun: float


class Backlog:
    """The order in which one receiver is given its events."""

    def __init__(self, backoff: Backoff) -> None:
        self.waiting = 0
        """Events that are neither accepted nor given up."""
        self._backoff = backoff
        self._calls: dict[str, _Queue] = {}
        self._ready: deque[str] = deque()
        self._later: list[tuple[float, str]] = []
        self._under_way = 0
        self._failures = 0
        self._failed_at = float("-inf")
        self._paused_until = float("-inf")

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    def put(self, call: str, position: int) -> None:
        """Add an event of a call behind its earlier ones."""
        queue = self._calls.get(call)
        if queue is None:
            queue = self._calls[call] = _Queue()
            self._ready.append(call)
        queue.positions.append(position)
        self.waiting += 1

    def take(self, now: float) -> Turn | None:
        """The next event that may be sent now; its ``settle`` must follow."""
        if self._full or now < self._paused_until:
            return None
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[1])
        while self._ready:
            call = self._ready.popleft()
            queue = self._calls.get(call)
            if queue is None or queue.busy:
                continue
            queue.busy = True
            self._under_way += 1
            return Turn(call, queue.positions[0], now)
        return None

    def settle(self, turn: Turn, verdict: Verdict, now: float, retry_after_s: float | None = None) -> None:
        """Say what became of a turn."""
        self._under_way -= 1
        queue = self._calls[turn.call]
        queue.busy = False
        if verdict is Verdict.FAILED:
            self._failed(turn, queue, now, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))
            return
        if verdict is not Verdict.GONE:
            self._failures = 0
        if queue.positions and queue.positions[0] == turn.position:  # else ``drop`` was quicker
            queue.positions.popleft()
            self.waiting -= 1
        queue.failures = 0
        if queue.positions:
            self._ready.append(turn.call)
        else:
            del self._calls[turn.call]

    def drop(self, floor: int) -> int:
        """Give up every event that lies before a position; return how many those are."""
        dropped = 0
        for call, queue in list(self._calls.items()):
            while queue.positions and queue.positions[0] < floor:
                queue.positions.popleft()
                dropped += 1
            if not queue.positions and not queue.busy:
                del self._calls[call]
        self.waiting -= dropped
        return dropped

    def forget(self, call: str) -> list[int]:
        """Give up the events of a call, but for one that is on its way; return their positions."""
        queue = self._calls.get(call)
        if queue is None:
            return []
        kept = [queue.positions.popleft()] if queue.busy and queue.positions else []
        forgotten, queue.positions = list(queue.positions), deque(kept)
        if not queue.busy:
            del self._calls[call]
        self.waiting -= len(forgotten)
        return forgotten

    def next_at(self) -> float | None:
        """When ``take`` may give something though nothing else happens until then; None: never."""
        if self._full or not (self._ready or self._later):
            return None
        first = float("-inf") if self._ready else self._later[0][0]
        return max(first, self._paused_until)

    @property
    def _full(self) -> bool:
        return self._under_way >= (1 if self.failing else AT_ONCE)

    def _failed(self, turn: Turn, queue: _Queue, now: float, retry_after_s: float) -> None:
        if not queue.positions:  # dropped meanwhile
            del self._calls[turn.call]
        elif self.failing:  # the receiver's fault, not this event's
            self._ready.append(turn.call)
        else:
            queue.failures += 1
            heapq.heappush(self._later, (now + self._backoff.pause(queue.failures), turn.call))
        if turn.begun >= self._failed_at:  # those that were on their way together fail once
            self._failures += 1
            self._failed_at = now
            self._paused_until = now + max(self._backoff.pause(self._failures), retry_after_s)
