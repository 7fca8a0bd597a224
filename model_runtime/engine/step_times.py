"""How long the engine's steps take: a histogram since the start, and the worst of the last seconds."""

import threading
from bisect import bisect_left
from collections import deque
from math import ceil
from typing import Final

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0)
"""Upper bounds of the histogram's buckets; one more is open-ended."""


class StepTimes:
    """Durations of steps. The engine thread records, the event loop reads."""

    def __init__(self, window_s: float = 10.0, least_steps: int = 100) -> None:
        """The p99 is over the last ``window_s`` seconds, and unknown below ``least_steps`` steps in them."""
        self._window_s = window_s
        self._least = least_steps
        self._recent: deque[tuple[float, float]] = deque(maxlen=4096)
        self._lock = threading.Lock()
        self.counts = [0] * (len(BUCKETS_S) + 1)
        """Steps per bucket of ``BUCKETS_S``, not cumulated."""
        self.total_s = 0.0

    @property
    def steps(self) -> int:
        """Steps since the start."""
        return sum(self.counts)

    def record(self, duration_s: float, now: float) -> None:
        """Add a step that ended at ``now``, s."""
        with self._lock:
            self._recent.append((now, duration_s))
            self.counts[bisect_left(BUCKETS_S, duration_s)] += 1
            self.total_s += duration_s

    def p99_s(self, now: float) -> float | None:
        """The 99th percentile (nearest rank) of the window, or None where too few steps fell into it."""
        with self._lock:
            while self._recent and self._recent[0][0] < now - self._window_s:
                self._recent.popleft()
            durations = sorted(duration for _, duration in self._recent)
        if len(durations) < self._least:
            return None
        return durations[ceil(0.99 * len(durations)) - 1]
