"""The clock of a call: which of the samples that were given to play the caller was sent, and when. Pure.

Second 0 is the first sample of line block 0 (telephony.call.LineTime); recordings, transcripts and measures all count
from there. Used on the gateway's event loop, once per block of 80 ms.
"""

from bisect import bisect_right
from typing import Final, NamedTuple

import numpy as np

from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from telephony.call import Frame, LineTime

KEPT: Final = 63 * FRAME_SAMPLES
"""Samples of played audio that are kept, about 5 s; what was not sent by then never will be."""
_REMEMBERED: Final = 120 * SAMPLE_RATE
"""For how long it is known when a sample was sent."""


class _Run(NamedTuple):
    """``length`` samples from ``position`` on went out from line sample ``line`` on."""

    position: int
    line: int
    length: int

    @property
    def end(self) -> int:
        return self.position + self.length


class Timeline:
    """What the caller was sent, block by block, and when each sample of it was.

    Positions are those of ``Call.play``: samples at 24 kHz since the answer. Holds 5 s of audio and two minutes of
    positions, however long the call is.
    """

    def __init__(self) -> None:
        self.missed = 0
        """Blocks that were lost before the one that ``advance`` was last given: so much silence in a recording."""
        self._next = 0
        self._ring = np.zeros(KEPT, np.int16)
        self._end = 0
        """The position after the last sample that was played."""
        self._runs: list[_Run] = []
        """In order of position and of time; those that follow on each other are one."""
        self._closed = False

    @property
    def now_s(self) -> float:
        """The end of the last block, in seconds."""
        return self._next * FRAME_S

    @property
    def sent_until(self) -> float:
        """The end of the last audio that was sent, in seconds."""
        last = self._runs[-1] if self._runs else _Run(0, 0, 0)
        return (last.line + last.length) / SAMPLE_RATE

    def played(self, position: int, frame: Frame) -> None:
        """Keep a frame, ``int16 [n]``, that was given to ``play``; ``position`` is what that returned."""
        if position < 0:
            return
        if position != self._end:  # frames were left out: they are silence
            gap = range(self._end, position) if 0 <= position - self._end < KEPT else range(KEPT)
            self._ring[np.asarray(gap) % KEPT] = 0
        start = position % KEPT
        first = min(frame.size, KEPT - start)
        self._ring[start : start + first] = frame[:first]
        self._ring[: frame.size - first] = frame[first:]
        self._end = position + frame.size

    def advance(self, at: LineTime) -> Frame:
        """What the caller was sent in this block, ``int16 [1920]``, silence where nothing was. Sets ``missed``."""
        self.missed = max(0, at.number - self._next)
        self._next = max(self._next, at.number + 1)
        sent = np.zeros(FRAME_SAMPLES, np.int16)
        begin = at.number * FRAME_SAMPLES
        for said in at.said:
            count = min(said.count, FRAME_SAMPLES - said.offset)
            self._copy(said.position, sent[said.offset : said.offset + count])
            self._note(_Run(said.position, begin + said.offset, count))
        return sent

    def line_time(self, position: int, count: int = 1) -> float | None:
        """When the first of ``count`` samples from ``position`` on was sent, in seconds.

        None where none of them was, as far as is known: ``skipped`` tells whether one may yet be.
        """
        index = bisect_right(self._runs, position, key=lambda run: run.end)
        if position < 0 or index == len(self._runs):
            return None
        run = self._runs[index]
        found = max(position, run.position)
        if found >= position + count:
            return None
        return (run.line + found - run.position) / SAMPLE_RATE

    def skipped(self, position: int) -> bool:
        """Whether a sample that was not sent never will be: a later one was, it is too old, or the call is over."""
        if self._closed or position < self._end - KEPT or position < 0:
            return True
        return bool(self._runs) and position < self._runs[-1].end

    def close(self) -> None:
        """The call is over: nothing more will be sent. Idempotent."""
        self._closed = True

    def _copy(self, position: int, out: Frame) -> None:
        """Fill ``out`` with the samples from ``position`` on that are still kept."""
        first = max(position, self._end - KEPT)
        last = min(position + out.size, self._end)
        if first >= last:
            return
        out = out[first - position : last - position]
        start = first % KEPT
        before_wrap = min(out.size, KEPT - start)
        out[:before_wrap] = self._ring[start : start + before_wrap]
        out[before_wrap:] = self._ring[: out.size - before_wrap]

    def _note(self, run: _Run) -> None:
        """Remember when a run was sent."""
        last = self._runs[-1] if self._runs else _Run(0, 0, 0)
        if run.length <= 0 or run.position < last.end:  # audio goes out in order, once
            return
        if self._runs and (last.end, last.line + last.length) == (run.position, run.line):
            self._runs[-1] = _Run(last.position, last.line, last.length + run.length)
            return
        self._runs.append(run)
        stale = 0
        while self._runs[stale].line + self._runs[stale].length < run.line - _REMEMBERED:
            stale += 1
        del self._runs[:stale]
