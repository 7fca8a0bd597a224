"""When one side of a call speaks: energy with hysteresis. Pure; runs on the gateway's event loop, once per block.

For measuring only: no decision about the audio is taken here. Levels are dBFS, the mean square of a piece beside that
of full scale, so a sine of full scale is at -3.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np

from config.audio import SAMPLE_RATE, TICK_S
from telephony.call import Frame

PIECE_S: Final = TICK_S
"""A decision is taken for every 20 ms: a pitch period or more of any voice, and finer than what is measured."""
_PIECE: Final = round(PIECE_S * SAMPLE_RATE)
_FULL_SCALE_DB: Final = 10 * math.log10(_PIECE * 2.0**30)

_ON_DB: Final = -42.0
"""Telephone speech has its active level at -15 to -35 and its vowels above that; idle lines are below -50."""
_OFF_DB: Final = -46.0
"""Word ends and weak consonants are some 15 dB below the vowels."""
_ON_ABOVE_FLOOR_DB: Final = 8.0
"""The level of 20 ms of telephone-band noise varies by 0.5 dB (one sigma), that of a street by 2 or 3."""
_OFF_ABOVE_FLOOR_DB: Final = 4.0
_FLOOR_AT_FIRST_DB: Final = -60.0
_FLOOR_MOST_DB: Final = -30.0
_FLOOR_FALL: Final = 0.25
"""Of the way down per piece: the pause between two words shows the floor."""
_FLOOR_RISE_DB: Final = 0.1
"""Per piece, 5 dB/s: new noise is known for what it is within seconds."""
_FLOOR_RISE_IN_SPEECH_DB: Final = 0.04
"""Per piece, 2 dB/s: speech dips to the floor several times a second, so only a steady sound lifts it for long."""
_NOTHING_DB: Final = -70.0
"""Muted, lost or suppressed: not the line's noise. An idle A-law coder's output is at -72."""
_FLOOR_FADE_DB: Final = 0.5
"""Per such piece: a lost packet leaves the floor where it is, the pauses of a line that suppresses noise lower it."""

_CONFIRM: Final = 5
"""Pieces: a click of less than 60 ms touches four at most."""
_DIP: Final = 3
"""Quiet pieces after which a beginning that is not confirmed is forgotten: a plosive's closure is shorter."""
_BRIDGE: Final = 15
"""Pieces, 300 ms: pauses within a phrase are shorter, those between two turns mostly longer."""
_SEGMENTS: Final = 4_096
"""How many a call keeps, some hours of conversation."""

_UNMASKED: Final = -math.inf


class Segment(NamedTuple):
    """Speech from ``start_s`` to ``end_s`` on the call's clock; ``end_s`` is None where it goes on."""

    start_s: float
    end_s: float | None


def levels(frame: Frame) -> list[float]:
    """The level of each 20 ms piece of a frame, ``int16 [1920]``, in dBFS; digital silence is at -117."""
    pieces = frame.astype(np.float32).reshape(-1, _PIECE)
    return [10 * math.log10(power + 1) - _FULL_SCALE_DB for power in np.einsum("ij,ij->i", pieces, pieces).tolist()]


class Speech:
    """The speech segments of one side.

    A piece counts as sound from ``max(-42, floor + 8)`` dBFS on and until it falls below ``max(-46, floor + 4)``; the
    floor follows the line's noise. 100 ms of sound, with dips below 60 ms, begin a segment at the first of its pieces;
    300 ms without any end it at the last one. So an onset is known 0.1 s after it was, and an end 0.3 s after.
    A steady sound (a tone, a fan) that goes on for about 10 s counts as noise from then on.
    """

    def __init__(self) -> None:
        self.segments: deque[tuple[float, float]] = deque(maxlen=_SEGMENTS)
        """The finished ones, start and end in s."""
        self.speech_s = 0.0
        """Of all finished segments together."""
        self.speaking = False
        """Whether a segment goes on, or may (for 0.3 s)."""
        self.start_s: float | None = None
        """When the segment that goes on began; None where none does."""
        self.heard_s: float | None = None
        """The end of the last sound that belongs to a segment; None before the first one."""
        self._floor_db = _FLOOR_AT_FIRST_DB
        self._above = False
        self._began_s = 0.0
        self._loud = 0  # pieces of a beginning that is not confirmed yet
        self._quiet = 0  # pieces since the last sound

    def hear(self, levels: Sequence[float], at_s: float, masks: Iterable[float] = ()) -> Segment | None:
        """Take in consecutive pieces, of which the first began at ``at_s``; at most 100 ms of them.

        ``masks``: levels below which each is no sound, whatever its own noise floor. Returns the segment that began
        (``end_s`` None) or ended thereby; it cannot be more than one.
        """
        changed = None
        for level, mask in zip(levels, masks or repeat(_UNMASKED), strict=False):
            change = self._sound(at_s) if self._is_sound(level, mask) else self._no_sound(1)
            changed = change or changed
            at_s += PIECE_S
        return changed

    def skip(self, seconds: float) -> Segment | None:
        """Let time pass of which nothing is known; returns the segment that ended thereby."""
        self._above = False
        return self._no_sound(round(seconds / PIECE_S))

    def close(self) -> Segment | None:
        """End the segment that goes on, where its last sound was, and return it."""
        return self._no_sound(_BRIDGE)

    def _is_sound(self, level: float, mask: float) -> bool:
        floor = self._floor_db
        if self._above:
            self._above = level >= max(_OFF_DB, floor + _OFF_ABOVE_FLOOR_DB, mask)
        else:
            self._above = level >= max(_ON_DB, floor + _ON_ABOVE_FLOOR_DB, mask)
        if level > floor:
            rise = _FLOOR_RISE_IN_SPEECH_DB if self._above else _FLOOR_RISE_DB
            self._floor_db = min(floor + rise, level, _FLOOR_MOST_DB)
        elif level > _NOTHING_DB:
            self._floor_db = floor + _FLOOR_FALL * (level - floor)
        else:
            self._floor_db = max(floor - _FLOOR_FADE_DB, min(floor, _FLOOR_AT_FIRST_DB))
        return self._above

    def _sound(self, at_s: float) -> Segment | None:
        self._quiet = 0
        if self.speaking:
            self.heard_s = at_s + PIECE_S
            return None
        if not self._loud:
            self._began_s = at_s
        self._loud += 1
        if self._loud < _CONFIRM:
            return None
        self._loud = 0
        self.speaking, self.start_s, self.heard_s = True, self._began_s, at_s + PIECE_S
        return Segment(self._began_s, None)

    def _no_sound(self, pieces: int) -> Segment | None:
        self._quiet += pieces
        if self._quiet >= _DIP:
            self._loud = 0
        if not self.speaking or self._quiet < _BRIDGE:
            return None
        assert self.start_s is not None
        assert self.heard_s is not None
        ended = Segment(self.start_s, self.heard_s)
        self.segments.append((self.start_s, self.heard_s))
        self.speech_s += self.heard_s - self.start_s
        self.speaking, self.start_s = False, None
        return ended
