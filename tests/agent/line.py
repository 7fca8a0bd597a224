"""A line without a wire, for sessions: it hears what the test says and keeps what is played."""

import asyncio
import time
from collections.abc import Callable

from config.audio import FRAME_SAMPLES
from telephony.call import CallState, Frame, LineTime, Said
from telephony.end_cause import EndCause
from telephony.transfer import Transfer


class ScriptedCall:
    """A ``Call`` that is answered at once and hung up at once, and sends each frame in the block after it, as no real
    line does.
    """  # noqa: D205

    def __init__(self) -> None:
        self.id = "5c41f7ed"
        self.caller = "200"
        self.called = "100"
        self.trunk: str | None = None
        self.codec = "PCMU"
        self.on_frame: Callable[[Frame, LineTime], None] | None = None
        self.on_dtmf: Callable[[str], None] | None = None
        self.played: asyncio.Queue[Frame] = asyncio.Queue()
        self.state = CallState.INCOMING
        self.confirmed = asyncio.Event()
        self.keys_sent = ""
        self.transfers: list[str] = []
        self.transfer_outcome: asyncio.Future[Transfer] = asyncio.get_running_loop().create_future()
        self._blocks = 0
        self._position = 0
        self._sent = 0
        self._closed: asyncio.Future[EndCause] = asyncio.get_running_loop().create_future()

    def say(self, frame: Frame) -> None:
        """Let the caller speak a frame."""
        assert self.on_frame is not None
        said = (Said(0, self._sent, FRAME_SAMPLES),) if self._sent < self._position else ()
        self._sent += FRAME_SAMPLES * len(said)
        self._blocks += 1
        self.on_frame(frame, LineTime(self._blocks - 1, time.monotonic(), said))

    def press(self, keys: str) -> None:
        """Let the caller press keys."""
        assert self.on_dtmf is not None
        for key in keys:
            self.on_dtmf(key)

    def ring(self) -> None:
        """Ring."""
        self.state = CallState.EARLY

    def answer(self) -> None:
        """Confirm."""
        self.state = CallState.CONFIRMED
        self.confirmed.set()

    def play(self, frame: Frame) -> int:
        """Keep what is played."""
        self.played.put_nowait(frame)
        self._position += frame.size
        return self._position - frame.size

    def send_dtmf(self, digits: str) -> None:
        """Keep the keys."""
        self.keys_sent += digits

    async def transfer(self, target: str, *, within_s: float = 30.0) -> Transfer:
        """Wait for the outcome that the test sets."""
        self.transfers.append(target)
        return await asyncio.shield(self.transfer_outcome)

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
