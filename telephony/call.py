"""A call, from the gateway's side: its states, and what every kind of call can do."""

from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from telephony.end_cause import EndCause

Frame = NDArray[np.int16]
"""One frame of audio, ``int16 [1920]`` at 24 kHz (config/audio.py)."""


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

    ``on_frame(frame, captured_at)`` is called on the loop for every 80 ms of the caller's audio once
    the call is confirmed, silence included, on the line's own clock; ``captured_at`` is
    ``time.monotonic()`` when the block left the line.
    """

    id: str
    caller: str
    called: str
    trunk: str | None
    on_frame: Callable[[Frame, float], None] | None

    @property
    def state(self) -> CallState:
        """Where the call stands."""

    def ring(self) -> None:
        """Let the caller hear ringing (180)."""

    def answer(self) -> None:
        """Answer the call (200)."""

    def play(self, frame: Frame) -> None:
        """Queue a frame, ``int16 [1920]`` at 24 kHz, for the caller's ear; dropped when not confirmed."""

    def hangup(self, cause: EndCause) -> EndCause:
        """End the call; idempotent, the first cause stays and is returned."""

    async def wait_confirmed(self) -> bool:
        """Wait until the call is confirmed (True) or has ended before that (False)."""

    async def wait_closed(self) -> EndCause:
        """Wait until the call is over at the peer and its line is free; return why."""
