"""The playout FIFO of a line: filled by frames when they come, emptied by the line's 20 ms clock."""

from typing import Final

import numpy as np

from config.audio import FRAME_S, TICK_S
from telephony.call import Frame

_LOOK_BACK: Final = round(2.0 / FRAME_S)  # pushes


class Playout:
    """Audio on its way to the caller's ear, at the line's own rate. Pure: no clock, no thread of its own.

    At most one frame plus 40 ms may wait (DESIGN.md, section 2). What comes beyond that is taken out of the
    quietest part of what waits, with a short cross-fade, and counted. An empty FIFO gives silence; that is an
    underrun once audio has begun to flow, and only until the flow is ``pause``d. Each underrun makes all that follows
    20 ms later; so where 40 ms or more were still waiting at every push for two seconds, 20 ms are taken out again.
    """

    def __init__(self, rate: int) -> None:
        """``rate`` in Hz."""
        self._tick = round(rate * TICK_S)
        self._limit = round(rate * FRAME_S) + 2 * self._tick
        self._fade = max(1, rate // 500)  # 2 ms
        self._waiting: Frame = np.empty(0, np.int16)
        self._flowing = False
        self._spare = self._limit
        """The least that was waiting when new audio came, since ``_pushes`` was 0."""
        self._pushes = 0
        self.underruns = 0
        """Ticks that found less than a tick of audio while it should have flowed."""
        self.trimmed = 0
        """Samples taken out because too many waited."""

    def __len__(self) -> int:
        """Samples that wait."""
        return int(self._waiting.size)

    def push(self, block: Frame) -> None:
        """Queue ``int16 [n]`` at the line's rate."""
        spare = self._spare_after(int(self._waiting.size))
        self._waiting = np.concatenate([self._waiting, block])
        self._flowing = True
        excess = max(self._waiting.size - self._limit, self._tick if spare >= 2 * self._tick else 0)
        if excess > 0:
            self._trim(excess)

    def pull(self) -> Frame:
        """Take the next 20 ms, ``int16 [rate / 50]``, filled up with silence."""
        out = np.zeros(self._tick, np.int16)
        n = min(self._tick, self._waiting.size)
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
        self.pause()

    def _spare_after(self, waiting: int) -> int:
        """Note what waits at a push; at the end of every two seconds the least of them, else 0."""
        self._spare = min(self._spare, waiting)
        self._pushes += 1
        if self._pushes < _LOOK_BACK:
            return 0
        spare, self._spare, self._pushes = self._spare, self._limit, 0
        return spare

    def _trim(self, excess: int) -> None:
        """Remove ``excess`` samples where the audio is quietest."""
        x = self._waiting.astype(np.float64)
        room = x.size - excess - self._fade
        if room <= 0:
            self._waiting = self._waiting[excess:]
        else:
            energy = np.concatenate([[0.0], np.cumsum(x * x)])
            span = excess + self._fade
            cut = int(np.argmin(energy[span:] - energy[:-span]))
            ramp = np.linspace(0.0, 1.0, self._fade)
            seam = x[cut : cut + self._fade] * (1 - ramp) + x[cut + excess : cut + span] * ramp
            self._waiting = np.concatenate(
                [self._waiting[:cut], seam.round().astype(np.int16), self._waiting[cut + span :]]
            )
        self.trimmed += excess
