"""A pool of line workers without the edge, and callers that dial a worker's own port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import av
import numpy as np

from config.schema import PortRange, SipSettings
from telephony.call import CallState
from telephony.sip.invitation import Invitation
from telephony.sip.line.call import SipCall
from telephony.sip.line.line_worker import Line
from telephony.sip.line.pool import LinePool
from tests.peers.audio import Samples
from tests.peers.caller import Caller, CallRefused

RTP_PORTS = PortRange(first=30_000, last=31_999)
RATES = {0: 8_000, 8: 8_000, 9: 16_000}
NAMES = {0: "PCMU", 8: "PCMA", 9: "G722"}


def echo(call: SipCall) -> None:
    """Answer, and play back what is heard."""
    call.on_frame = lambda frame, time: call.play(frame) and None
    call.answer()


class DirectPool(LinePool):
    """A pool that keeps what it reports."""

    def __init__(self, on_call: Callable[[SipCall], None] = echo, max_calls: int = 4) -> None:
        self.calls: list[SipCall] = []
        self.lost: list[str] = []
        settings = SipSettings(max_calls=max_calls, rtp_ports=RTP_PORTS, rtp_address="127.0.0.1")

        def arrive(call: SipCall) -> None:
            self.calls.append(call)
            on_call(call)

        super().__init__(settings, arrive, self.lost.extend)

    def call_of(self, caller: Caller) -> SipCall:
        """The call that a caller made."""
        return next(call for call in self.calls if call.invitation.sip_call_id == caller.call_id)


class DirectCaller(Caller):
    """A caller that can change its offer, and speaks G722 as well."""

    direction = "sendrecv"

    def __init__(self, server: tuple[str, int], audio: Samples, payload_type: int) -> None:
        super().__init__(server, "echo", audio if payload_type != 9 else audio[:0], min(payload_type, 8))
        self.statuses: list[int] = []
        """Of every response that came."""
        self.last_response = b""
        self.refers: list[str] = []
        """The header of every REFER that came, once each."""
        self.refer_answer = "202 Accepted"
        self._payload_type = payload_type
        if payload_type == 9:
            self.say(_g722(audio))

    def _offer(self) -> str:
        kind = self._payload_type
        return (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=audio {self.rtp_port} RTP/AVP {kind} 101\r\na=rtpmap:{kind} {NAMES[kind]}/8000\r\n"
            f"a=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\na={self.direction}\r\n"
        )

    def _on_sip(self, data: bytes, source: tuple[str, int]) -> None:
        kind, status, _ = data.split(b" ", 2)
        if kind == b"SIP/2.0":
            self.statuses.append(int(status))
            self.last_response = data
        super()._on_sip(data, source)

    def reinvite(self, direction: str = "sendrecv", payload_type: int | None = None) -> None:
        """Offer anew; the answer is acknowledged."""
        self.direction = direction
        self._payload_type = self._payload_type if payload_type is None else payload_type
        self._cseq += 1
        self._send(self._request("INVITE", f"z9hG4bK-again-{self._cseq}", self._offer()))

    def bye(self) -> None:
        """Send a BYE and do not wait."""
        self._cseq += 1
        self._send(self._request("BYE", f"z9hG4bK-bye-{self.call_id}-{self._cseq}"))

    def cancel(self) -> None:
        """Send CANCEL for the INVITE."""
        self._send(self._request("INVITE", self._branch).replace(b"INVITE", b"CANCEL"))

    def _on_request(self, method: str, lines: list[str], source: tuple[str, int]) -> None:
        if method != "REFER":
            super()._on_request(method, lines, source)
            return
        header = "\r\n".join(lines)
        if header not in self.refers:
            self.refers.append(header)
        kept = [line for line in lines if line.split(":")[0].lower() in ("via", "from", "to", "call-id", "cseq")]
        host, port = self._sip.get_extra_info("sockname")
        kept += [f"Contact: <sip:caller@{host}:{port}>", "Content-Length: 0"]
        self._sip.sendto("\r\n".join([f"SIP/2.0 {self.refer_answer}", *kept, "", ""]).encode(), source)

    def notify(self, status: str, state: str = "active") -> None:
        """Tell how a transfer stands (RFC 3515)."""
        body = f"SIP/2.0 {status}\r\n"
        self._cseq += 1
        request = self._request("NOTIFY", f"z9hG4bK-notify-{self.call_id}-{self._cseq}", body)
        fields = f"Event: refer\r\nSubscription-State: {state}\r\nContent-Type: message/sipfrag;version=2.0"
        self._send(request.replace(b"Content-Type: application/sdp", fields.encode()))

    def info(self, key: str) -> None:
        """Press a key by INFO."""
        self._cseq += 1
        request = self._request(
            "INFO", f"z9hG4bK-info-{self.call_id}-{self._cseq}", f"Signal={key}\r\nDuration=160\r\n"
        )
        self._send(request.replace(b"application/sdp", b"application/dtmf-relay"))

    def refer(self, target: str) -> None:
        """Ask to be transferred."""
        self._cseq += 1
        request = self._request("REFER", f"z9hG4bK-refer-{self._cseq}")
        self._send(request.replace(b"Contact:", f"Refer-To: <{target}>\r\nContact:".encode()))

    @property
    def rtp_peer(self) -> tuple[str, int]:
        """Where its RTP goes."""
        assert self._rtp_peer is not None
        return self._rtp_peer

    def decoded(self) -> Samples:
        """The audio heard, by order of arrival."""
        payload = b"".join(packet.payload for packet in self.heard if packet.payload_type == 9)
        decoder = av.CodecContext.create("g722", "r")
        frames = decoder.decode(av.Packet(payload)) + decoder.decode(None)
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def _g722(audio: Samples) -> bytes:
    encoder = av.CodecContext.create("g722", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 16_000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(audio[None, :], format="s16", layout="mono")
    frame.sample_rate = 16_000
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def invitation(sip_call_id: str, payload_type: int = 0) -> Invitation:
    """What the edge would say of a caller's INVITE."""
    codecs = (NAMES[payload_type],)
    uri = "sip:caller@127.0.0.1"
    return Invitation(sip_call_id, "sip:echo@127.0.0.1", "echo", "caller", uri, ("127.0.0.1", 5_060), "udp", codecs)


@asynccontextmanager
async def calling(pool: LinePool, audio: Samples, payload_type: int = 0) -> AsyncIterator[tuple[DirectCaller, Line]]:
    """A placed call that is answered and speaks; hung up at the end unless it is over."""
    caller = DirectCaller(("127.0.0.1", 9), audio, payload_type)
    line = await pool.place(invitation(caller.call_id, payload_type))
    caller._server = line.sip_address
    try:
        await caller.open()
        speaking = asyncio.create_task(caller.speak(), name="speak")
        try:
            yield caller, line
        finally:
            speaking.cancel()
            await asyncio.wait([speaking])
            with contextlib.suppress(TimeoutError):
                await caller.hangup()
    finally:
        caller.close()


@asynccontextmanager
async def inviting(pool: LinePool) -> AsyncIterator[tuple[DirectCaller, Line, "asyncio.Task[int]"]]:
    """A placed call that nobody need answer; the task gives its final status."""
    caller = DirectCaller(("127.0.0.1", 9), np.zeros(160, np.int16), 0)
    line = await pool.place(invitation(caller.call_id))
    caller._server = line.sip_address

    async def status() -> int:
        try:
            await caller.open()
        except CallRefused as refusal:
            return refusal.status
        return 200

    task = asyncio.create_task(status(), name="invite")
    try:
        yield caller, line, task
    finally:
        task.cancel()
        await asyncio.wait([task])
        caller.close()


async def until(condition: Callable[[], object], within_s: float = 3.0) -> None:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def soon(awaitable: Awaitable[object], within_s: float = 3.0) -> object:
    """Await, but not for ever."""
    async with asyncio.timeout(within_s):
        return await awaitable


def confirmed(pool: DirectPool, caller: Caller) -> bool:
    """Whether a caller's call is up on our side."""
    return pool.call_of(caller).state is CallState.CONFIRMED
