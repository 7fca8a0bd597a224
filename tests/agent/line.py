"""A line without a wire, for sessions: it hears what the test says and keeps what is played."""

import asyncio
import time
from collections.abc import Callable

from telephony.call import CallState, Frame
from telephony.end_cause import EndCause


class ScriptedCall:
    """A ``Call`` that is answered at once and hung up at once, as no real line is."""

    def __init__(self) -> None:
        self.id = "scripted"
        self.caller = "200"
        self.called = "100"
        self.trunk: str | None = None
        self.on_frame: Callable[[Frame, float], None] | None = None
        self.played: asyncio.Queue[Frame] = asyncio.Queue()
        self.state = CallState.INCOMING
        self.confirmed = asyncio.Event()
        self._closed: asyncio.Future[EndCause] = asyncio.get_running_loop().create_future()

    def say(self, frame: Frame) -> None:
        """Let the caller speak a frame."""
        assert self.on_frame is not None
        self.on_frame(frame, time.monotonic())

    def ring(self) -> None:
        """Ring."""
        self.state = CallState.EARLY

    def answer(self) -> None:
        """Confirm."""
        self.state = CallState.CONFIRMED
        self.confirmed.set()

    def play(self, frame: Frame) -> None:
        """Keep what is played."""
        self.played.put_nowait(frame)

    def hangup(self, cause: EndCause) -> EndCause:
        """End; the first cause stays."""
        if not self._closed.done():
            self.state = CallState.DISCONNECTED
            self._closed.set_result(cause)
        return self._closed.result()

    async def wait_confirmed(self) -> bool:
        """True once answered."""
        await self.confirmed.wait()
        return True

    async def wait_closed(self) -> EndCause:
        """Return the cause."""
        return await asyncio.shield(self._closed)
