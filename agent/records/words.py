"""Words out of pieces of text, each with its time on the call's clock. Pure."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from config.audio import FRAME_SAMPLES, SAMPLE_RATE

_PIECES: Final = re.compile(r"\s*\S+|\s+")
_CONTROLS: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")
_SETTLED_S: Final = 0.24
"""A word that got no further piece for so long is whole."""


class Clock(Protocol):
    """What a ``Timeline`` knows of positions."""

    @property
    def sent_until(self) -> float:
        """The end of the last audio that was sent, in seconds."""

    def line_time(self, position: int, count: int = 1) -> float | None:
        """When the first of these samples was sent."""

    def skipped(self, position: int) -> bool:
        """Whether the sample, not sent so far, never will be."""


class Heard:
    """The caller's clock: a position is the time itself, and all of it was heard."""

    sent_until: float = inf

    def line_time(self, position: int, count: int = 1) -> float | None:
        """The position in seconds."""
        return position / SAMPLE_RATE

    def skipped(self, position: int) -> bool:
        """Never."""
        return False


@dataclass(slots=True)
class Word:
    """A word, or what came of one: ``text`` begins with a space unless it goes on with the word before."""

    text: str
    position: int
    scripted: bool = False
    start: float | None = None
    end: float = 0.0
    cut: bool = False
    """Its audio was never sent; ``start`` and ``end`` are then when that was known."""
    last_piece_s: float = 0.0

    @property
    def limit(self) -> float:
        """The latest end of a word of this length, spoken slowly."""
        assert self.start is not None
        return self.start + min(1.6, 0.2 + 0.08 * len(self.text.strip()))


class Words:
    """One speaker's words. A piece that begins with a space begins a word, and punctuation sticks to its word.

    A word starts when the frame in which its first piece came was sent, and ends when the next one starts or when it
    has been spoken slowly, not after the last audio that was sent. ``lag_s``: how late pieces may be told.
    """

    def __init__(self, clock: Clock, lag_s: float = 0.0) -> None:
        self.lag_s = lag_s
        self._clock = clock
        self._pending: deque[Word] = deque()
        self._until = 0.0

    def __bool__(self) -> bool:
        """Whether there are words that are not complete."""
        return bool(self._pending)

    @property
    def next_start(self) -> float | None:
        """When the first word that is not complete started; None where there is none or it was not sent yet."""
        return self._pending[0].start if self._pending else None

    def add(self, position: int, piece: str, scripted: bool, now_s: float) -> None:
        """Take a piece of text, and the position of the audio in which it is said (-1: that was not played)."""
        for part in _PIECES.findall(piece.translate(_CONTROLS)):
            last = self._pending[-1] if self._pending else None
            if part[0].isspace() or last is None:
                text = " " + part.lstrip() if part[0].isspace() else part
                last = Word(text, position, scripted)
                self._pending.append(last)
            else:
                last.text += part
                if last.position < 0:
                    last.position, last.cut = position, False
            last.last_piece_s = now_s

    def complete(self, now_s: float, *, final: bool = False) -> Iterator[Word]:
        """Give out the words that are complete at ``now_s``; at the end of the call, all of them."""
        if not self._pending:
            return
        self._locate(now_s)
        while self._pending and (end := self._end(now_s, final)) is not None:
            word = self._pending.popleft()
            word.start = max(self._until, end if word.start is None else word.start)
            self._until = word.end = max(word.start, end)
            if word.text != " ":
                yield word

    def _locate(self, now_s: float) -> None:
        """Find out when words were sent, in order."""
        for word in self._pending:
            if word.start is not None or word.cut:
                continue
            word.start = self._clock.line_time(word.position, FRAME_SAMPLES)
            if word.start is None:
                if not self._clock.skipped(word.position + FRAME_SAMPLES - 1 if word.position >= 0 else -1):
                    return
                word.cut = True

    def _end(self, now_s: float, final: bool) -> float | None:
        """The end of the first word; None where it is not complete yet."""
        word = self._pending[0]
        follower = self._pending[1] if len(self._pending) > 1 else None
        settled = final or follower is not None or now_s - self.lag_s >= word.last_piece_s + _SETTLED_S
        if word.cut:
            at = now_s if follower is None or follower.start is None else min(now_s, follower.start)
            return at if settled else None
        if word.start is None:
            return None
        sent = min(word.limit, self._clock.sent_until)
        if follower is not None and follower.start is not None:
            return min(sent, follower.start)
        if final or (settled and now_s - self.lag_s >= word.limit):
            return sent
        return None
