"""A SIP call from the gateway's side: the caller's audio to frames, frames to the caller's ear (gateway's loop).

The way is short: a block from the line worker is resampled, framed and handed to ``on_frame`` in the callback that
read it from the channel. No queue and no task lies between.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable

import numpy as np
import structlog

from config.audio import FRAME_S, SAMPLE_RATE
from telephony.call import NEXT, CallState, Frame, LineTime
from telephony.dtmf import check_digits, is_key
from telephony.end_cause import EndCause, EndResult
from telephony.errors import ChannelError
from telephony.resample import Resampler
from telephony.sip.invitation import Invitation
from telephony.sip.line.messages import (
    Answer,
    Audio,
    Dtmf,
    Hangup,
    Latched,
    Media,
    Message,
    Refer,
    Referred,
    Ring,
    SendDtmf,
    State,
    Stats,
)
from telephony.transfer import Transfer, parse_target

_DECLINED = 480  # what a call that ends without an answer and without a fault is told
_REQUEST_TERMINATED = 487


class SipCall:
    """One call on a line worker; see ``telephony.call.Call`` for the contract."""

    def __init__(self, invitation: Invitation, number: int, rate: int, send: Callable[[Message], None]) -> None:
        """``number`` is the worker's for the call, ``rate`` its bridge's in Hz, ``send`` its channel."""
        self.id = secrets.token_hex(8)
        self.invitation = invitation
        self.caller = invitation.caller
        self.called = invitation.called
        self.trunk: str | None = None
        self.on_frame: Callable[[Frame, LineTime], None] | None = None
        self.on_dtmf: Callable[[str], None] | None = None
        self.number = number
        self.held = False
        """The peer has put the call on hold and hears nothing."""
        self.codec = ""
        """The encoding in use, once negotiated."""
        self.rtp_source = ""
        """``host:port`` that the caller's RTP comes from, once known."""
        self.stats: Stats | None = None
        """The call's media in figures, once it is over."""
        self._send = send
        self._state = CallState.INCOMING
        self._cause: EndCause | None = None
        self._confirmed = asyncio.Event()  # or over
        self._closed = asyncio.Event()
        self._transfer: asyncio.Future[Transfer] | None = None
        """The outcome of the transfer that is open at the peer."""
        self._rate = rate
        self._block = 2 * round(rate * FRAME_S)  # bytes
        self._played = 0
        self._inward = Resampler(rate, SAMPLE_RATE)
        self._outward = Resampler(SAMPLE_RATE, rate)
        self._log = structlog.get_logger(__name__).bind(call=self.id)

    @property
    def state(self) -> CallState:
        """Where the call stands."""
        return self._state

    def _enter(self, state: CallState) -> None:
        if state not in NEXT[self._state]:
            return  # a second 180, say
        self._log.info("call state", old=self._state.value, new=state.value)
        self._state = state
        if state in (CallState.CONFIRMED, CallState.DISCONNECTED):
            self._confirmed.set()
        if state is CallState.DISCONNECTED:
            self._closed.set()
            self._settle(Transfer(False, _REQUEST_TERMINATED, "call ended"))
            self.on_frame = self.on_dtmf = None
            del self._inward, self._outward  # FFmpeg's filters are large, and a dialog outlives its call by 32 s

    def ring(self) -> None:
        """Let the caller hear ringing (180)."""
        if self._cause is None and self._state is CallState.INCOMING:
            self._send(Ring(self.number))

    def answer(self) -> None:
        """Answer the call (200)."""
        if self._cause is None and self._state in (CallState.INCOMING, CallState.EARLY):
            self._send(Answer(self.number))

    def play(self, frame: Frame) -> int:
        """Queue a frame, ``int16 [1920]`` at 24 kHz, for the caller's ear; return its position, -1 when dropped."""
        if not self._talking:
            return -1
        position, self._played = self._played, self._played + frame.size
        pcm = self._outward.push(frame).tobytes()
        self._send(Audio(self.number, time.monotonic(), pcm, position * self._rate // SAMPLE_RATE))
        return position

    def send_dtmf(self, digits: str) -> None:
        """Press keys at the caller's end (RFC 4733); raises ``ValueError`` but for up to 31 of ``0-9A-D*#``."""
        check_digits(digits)
        if self._talking:
            self._send(SendDtmf(self.number, digits))

    async def transfer(self, target: str, *, within_s: float = 30.0) -> Transfer:
        """Ask the caller's phone to call ``target`` instead, and wait for the outcome; see ``Call.transfer``.

        Out of time the transfer stays open, for REFER cannot be taken back: should the target answer later, the call
        is hung up then; until the peer has told the end of it, further ones are not begun (491).
        """
        target = parse_target(target)
        if not self._talking:
            return Transfer(False, _REQUEST_TERMINATED, "call is not up")
        if self._transfer is not None:
            return Transfer(False, 491, "another transfer is open")
        outcome = self._transfer = asyncio.get_running_loop().create_future()
        self._log.info("transfer", target=target)
        self._send(Refer(self.number, target))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                return await asyncio.shield(outcome)
        return Transfer(False, 408, "no outcome in time")

    def hangup(self, cause: EndCause) -> EndCause:
        """End the call; idempotent, the first cause stays and is returned."""
        if self._cause is None:
            self._cause = cause
            self._log.info("hang up", reason=cause.reason)
            status = cause.sip_status or 0
            if 300 <= status < 400 and not cause.contact:
                status = _DECLINED
            self._send(Hangup(self.number, status if status >= 300 else _DECLINED, cause.contact))
        return self._cause

    async def wait_confirmed(self) -> bool:
        """Wait until the call is confirmed (True) or has ended before that (False)."""
        await self._confirmed.wait()
        return self._state is CallState.CONFIRMED

    async def wait_closed(self) -> EndCause:
        """Wait until the call is over at the peer and its line is free; return why."""
        await self._closed.wait()
        assert self._cause is not None
        return self._cause

    def receive(self, message: Message) -> None:
        """Take what the line worker says of this call."""
        match message:
            case Audio():
                self._hear(message)
            case State():
                self._change(message)
            case Media(_, codec, rate, held):
                self.codec, self.held = codec or self.codec, held
                self._log.info("call media", codec=codec, rate=rate, held=held)
            case Latched(_, address):
                self.rtp_source = address
                self._log.info("call RTP source", address=address)
            case Dtmf(_, digit):
                self._log.debug("call DTMF")  # never which: it may be of a card's number
                if self.on_dtmf is not None and is_key(digit) and self._cause is None:
                    self.on_dtmf(digit)
            case Referred():
                self._follow(message)
            case Stats():
                self.stats = message

    def lose(self) -> None:
        """End the call for the death of its worker."""
        self._cause = self._cause or EndCause.line_lost()
        self._enter(CallState.DISCONNECTED)

    @property
    def _talking(self) -> bool:
        """Neither side has ended the call, and it was answered."""
        return self._cause is None and self._state is CallState.CONFIRMED

    def _hear(self, audio: Audio) -> None:
        if self.on_frame is None or not self._talking:
            return
        if len(audio.pcm) != self._block:
            raise ChannelError(f"a block of {len(audio.pcm)} bytes")
        frame = self._inward.push(np.frombuffer(audio.pcm, np.int16))
        said = tuple(run.resampled(self._rate, SAMPLE_RATE) for run in audio.said)  # exact: telephony/playout.py
        self.on_frame(frame, LineTime(audio.number, audio.at, said))

    def _follow(self, referred: Referred) -> None:
        """Take what the peer says of a transfer."""
        self._log.info("transfer progress", sip_status=referred.status, reason=referred.reason, final=referred.final)
        if self._transfer is None or not referred.final:
            return
        accepted = 200 <= referred.status < 300
        self._settle(Transfer(accepted, referred.status, referred.reason))
        if accepted:
            self.hangup(EndCause.transferred())

    def _settle(self, outcome: Transfer) -> None:
        """The transfer that is open, if there is one, has come to an end."""
        transfer, self._transfer = self._transfer, None
        if transfer is not None and not transfer.done():
            transfer.set_result(outcome)

    def _change(self, message: State) -> None:
        try:
            state = CallState(message.state)
        except ValueError as error:
            raise ChannelError(str(error)) from error
        if state is CallState.DISCONNECTED:
            self._cause = self._cause or _cause_of(message)
            self._log.info(
                "call over",
                result=self._cause.result.value,
                reason=self._cause.reason,
                sip_status=message.status,
                by_us=message.by_us,
                stats=self.stats,
            )
        self._enter(state)


def _cause_of(message: State) -> EndCause:
    """Why a call ended that the gateway did not end."""
    if message.answered and message.status < 300:
        return EndCause.peer_hung_up()
    if message.status == _REQUEST_TERMINATED:
        return EndCause.cancelled()
    return EndCause(EndResult.FAILED, message.reason or "call failed", message.status or None)
