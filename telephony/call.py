"""A call, from the gateway's side: its states, and what every kind of call can do."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from telephony.end_cause import EndCause
from telephony.transfer import Transfer

Frame = NDArray[np.int16]
"""One frame of audio, ``int16 [1920]`` at 24 kHz (config/audio.py)."""


@dataclass(frozen=True, slots=True)
class Said:
    """A run of what was given to ``play``, as the caller was sent it, in samples at 24 kHz.

    Sample ``position + i`` (0 is the first one given to ``play`` since the answer) went out while sample
    ``offset + i`` of the caller's frame came in, for ``i`` below ``count``.
    """

    offset: int
    position: int
    count: int

    def resampled(self, rate: int, to: int) -> "Said":
        """The same run in samples at another rate, in Hz; exact where its ends are whole there."""
        end = (self.position + self.count) * to // rate
        position = self.position * to // rate
        return Said(self.offset * to // rate, position, end - position)


@dataclass(frozen=True, slots=True)
class LineTime:
    """What the line's clock says of one frame of the caller's audio.

    ``number`` counts the line's blocks of 80 ms since the answer, from 0; a missing number is a frame that was lost on
    its way, and 80 ms of time all the same. ``captured_at`` is ``time.monotonic()`` when the frame left the line.
    ``said`` tells which samples given to ``play`` the caller was sent meanwhile, in order; where it tells of none he
    was sent silence. Exact on the line; the resamplers beside it shift audio by 2 ms at most either way.
    """

    number: int
    captured_at: float
    said: tuple[Said, ...] = ()


class CallState(Enum):
    """A call's dialog state (RFC 3261 section 12)."""

    INCOMING = "incoming"
    EARLY = "early"
    CONFIRMED = "confirmed"
    DISCONNECTED = "disconnected"


NEXT: Final[dict[CallState, set[CallState]]] = {
    CallState.INCOMING: {CallState.EARLY, CallState.CONFIRMED, CallState.DISCONNECTED},
    CallState.EARLY: {CallState.CONFIRMED, CallState.DISCONNECTED},
    CallState.CONFIRMED: {CallState.DISCONNECTED},
    CallState.DISCONNECTED: set(),
}


class Call(Protocol):
    """One call on a line. Lives on the gateway's event loop; no method blocks.

    ``on_frame(frame, time)`` is called on the loop for every 80 ms of the caller's audio once the call is
    confirmed, silence included, on the line's own clock. ``on_dtmf(key)`` is called on the loop for each key the
    caller presses, one of ``0123456789ABCD*#``, and the first may come a moment before the call is confirmed; keys
    may be card numbers, so they are not to be logged. Both are to be set before ``answer``.
    """

    id: str
    caller: str
    called: str
    trunk: str | None
    codec: str
    """The encoding in use, once the call is answered."""
    on_frame: Callable[[Frame, LineTime], None] | None
    on_dtmf: Callable[[str], None] | None

    @property
    def state(self) -> CallState:
        """Where the call stands."""

    def ring(self) -> None:
        """Let the caller hear ringing (180)."""

    def answer(self) -> None:
        """Answer the call (200)."""

    def play(self, frame: Frame) -> int:
        """Queue a frame, ``int16 [1920]`` at 24 kHz, for the caller's ear.

        Returns the position of its first sample among all that were given since the answer, as ``Said`` counts them;
        -1 where the frame is dropped, for the call is not confirmed.
        """

    def send_dtmf(self, digits: str) -> None:
        """Press keys at the caller's end (RFC 4733); raises ``ValueError`` but for ``0123456789ABCD*#``."""

    async def transfer(self, target: str, *, within_s: float = 30.0) -> Transfer:
        """Ask the caller's phone to call ``target``, a SIP URI, instead (RFC 3515), and wait for the outcome.

        Where the target answers, this call is hung up; otherwise it goes on. Raises ``ValueError`` for another URI.
        """

    def hangup(self, cause: EndCause) -> EndCause:
        """End the call; idempotent, the first cause stays and is returned."""

    async def wait_confirmed(self) -> bool:
        """Wait until the call is confirmed (True) or has ended before that (False)."""

    async def wait_closed(self) -> EndCause:
        """Wait until the call is over at the peer and its line is free; return why."""
