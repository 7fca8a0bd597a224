"""The playout FIFO of a line: filled by frames when they come, emptied by the line's 20 ms clock."""

import math
from collections import deque
from typing import Final

import numpy as np

from config.audio import FRAME_S, SAMPLE_RATE, TICK_S
from telephony.call import Frame, Said

_LOOK_BACK: Final = round(2.0 / FRAME_S)  # pushes


class Playout:
    """Audio on its way to the caller's ear, at the line's own rate. Pure: no clock, no thread of its own.

    At most one frame plus 40 ms may wait (DESIGN.md, section 2). What comes beyond that is taken out of the
    quietest part of what waits, with a short cross-fade, and counted. An empty FIFO gives silence; that is an
    underrun once audio has begun to flow, and only until the flow is ``pause``d. Each underrun makes all that follows
    20 ms later; so where 40 ms or more were still waiting at every push for two seconds, 20 ms are taken out again.

    Samples are numbered as they are pushed, and ``said`` tells which of them the last pull gave out. Where some were
    taken out, the cross-fade counts as what follows it. Cuts lie on samples that have a whole position at 24 kHz too.
    """

    def __init__(self, rate: int) -> None:
        """``rate`` in Hz."""
        self._tick = round(rate * TICK_S)
        self._limit = round(rate * FRAME_S) + 2 * self._tick
        self._fade = max(1, rate // 500)  # 2 ms
        self._grid = rate // math.gcd(rate, SAMPLE_RATE)
        self._waiting: Frame = np.empty(0, np.int16)
        self._runs: deque[tuple[int, int]] = deque()
        """What waits, as position and count: one run, unless samples were lost or taken out."""
        self._next = 0
        self._flowing = False
        self._spare = self._limit
        """The least that was waiting when new audio came, since ``_pushes`` was 0."""
        self._pushes = 0
        self.underruns = 0
        """Ticks that found less than a tick of audio while it should have flowed."""
        self.said: tuple[Said, ...] = ()
        """What the last pull gave out, at the line's rate: offset in it, position in what was pushed, count."""
        self.trimmed = 0
        """Samples taken out because too many waited."""

    def __len__(self) -> int:
        """Samples that wait."""
        return int(self._waiting.size)

    def push(self, block: Frame, position: int | None = None) -> None:
        """Queue ``int16 [n]`` at the line's rate; ``position`` of its first sample where some before it were lost."""
        spare = self._spare_after(int(self._waiting.size))
        self._number(block.size, self._next if position is None else position)
        self._waiting = np.concatenate([self._waiting, block])
        self._flowing = True
        excess = max(self._waiting.size - self._limit, self._tick if spare >= 2 * self._tick else 0)
        if excess > 0:
            self._trim(excess)

    def pull(self) -> Frame:
        """Take the next 20 ms, ``int16 [rate / 50]``, filled up with silence."""
        out = np.zeros(self._tick, np.int16)
        n = min(self._tick, self._waiting.size)
        self.said = self._take(n)
        out[:n] = self._waiting[:n]
        self._waiting = self._waiting[n:]
        if n < self._tick and self._flowing:
            self.underruns += 1
        return out

    def pause(self) -> None:
        """Say that no more audio is due (hold, a lost model): silence from here on is no underrun."""
        self._flowing = False

    def clear(self) -> None:
        """Forget what waits, and pause."""
        self._waiting = np.empty(0, np.int16)
        self._runs.clear()
        self.pause()

    def _number(self, count: int, position: int) -> None:
        """Number ``count`` samples at the end of what waits."""
        self._next = position + count
        if self._runs and sum(self._runs[-1]) == position:
            position, waiting = self._runs.pop()
            count += waiting
        if count:
            self._runs.append((position, count))

    def _take(self, count: int) -> tuple[Said, ...]:
        """Take the numbers of ``count`` samples off the front of what waits."""
        taken: list[Said] = []
        offset = 0
        while offset < count:
            position, waiting = self._runs.popleft()
            n = min(waiting, count - offset)
            taken.append(Said(offset, position, n))
            offset += n
            if n < waiting:
                self._runs.appendleft((position + n, waiting - n))
        return tuple(taken)

    def _spare_after(self, waiting: int) -> int:
        """Note what waits at a push; at the end of every two seconds the least of them, else 0."""
        self._spare = min(self._spare, waiting)
        self._pushes += 1
        if self._pushes < _LOOK_BACK:
            return 0
        spare, self._spare, self._pushes = self._spare, self._limit, 0
        return spare

    def _trim(self, excess: int) -> None:
        """Remove ``excess`` samples, rounded up to the grid, where the audio is quietest."""
        excess += -excess % self._grid
        cut = 0
        x = self._waiting.astype(np.float64)
        room = x.size - excess - self._fade
        if room <= 0:
            self._waiting = self._waiting[excess:]
        else:
            energy = np.concatenate([[0.0], np.cumsum(x * x)])
            span = excess + self._fade
            cut = self._grid * int(np.argmin((energy[span:] - energy[:-span])[:: self._grid]))
            ramp = np.linspace(0.0, 1.0, self._fade)
            seam = x[cut : cut + self._fade] * (1 - ramp) + x[cut + excess : cut + span] * ramp
            self._waiting = np.concatenate(
                [self._waiting[:cut], seam.round().astype(np.int16), self._waiting[cut + span :]]
            )
        before = self._take(cut)
        self._take(excess)
        self._runs.extendleft((said.position, said.count) for said in reversed(before))
        self.trimmed += excess
