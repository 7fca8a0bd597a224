"""A caller's end of one SIP call over UDP: INVITE, audio as G.711, keys, BYE. Runs on an asyncio event loop.

It registers nowhere and answers nothing but BYE and OPTIONS; messages are those of telephony/sip/message.py, and the
line has no part in it, so what a gateway does wrong is not hidden by the same code at both ends.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from typing import Final

from agent.evaluation.g711 import PAYLOAD_TYPES, Codec
from agent.evaluation.rtp import KEY_PAYLOAD_TYPE
from telephony.errors import CallFailed, SipParseError
from telephony.sip.message import Headers, Request, Response, parse_message
from telephony.sip.sdp import SessionDescription
from telephony.sip.uri import NameAddr, SipUri, format_host

T1_S: Final = 0.5
"""RFC 3261, section 17.1.1.1."""
_ANSWER_S: Final = 32.0
_BYE_S: Final = 5.0
_SIP_PORT: Final = 5060
Address = tuple[str, int]


class SipCall:
    """One call, up when ``open`` returns. ``close`` is idempotent, and no BYE: ``hang_up`` sends one."""

    def __init__(self, to: SipUri, name: str, codec: Codec, on_audio: Callable[[bytes], None]) -> None:
        """``name`` is the caller's user part; ``on_audio`` is given each datagram of the audio."""
        self.hung_up_at: float | None = None
        """When the far end's BYE came, on ``time.monotonic()``."""
        self._to, self._name, self._codec = to, name, codec
        self._server: Address = (to.address, to.port or _SIP_PORT)
        self._on_audio = on_audio
        self._call_id, self._tag = secrets.token_hex(12), secrets.token_hex(6)
        self._cseq = 1
        self._target, self._remote = to.plain(), f"<{to.plain()}>"
        self._routes: list[str] = []
        self._answers: dict[str, asyncio.Queue[Response]] = {"INVITE": asyncio.Queue(), "BYE": asyncio.Queue()}
        self._acknowledged = False
        self._sip: asyncio.DatagramTransport | None = None
        self._rtp: asyncio.DatagramTransport | None = None
        self._peer: Address | None = None
        self._host = ""

    async def open(self) -> None:
        """Call; returns when the call is answered. Raises ``CallFailed``."""
        loop = asyncio.get_running_loop()
        self._host = _facing(self._server)
        here = (self._host, 0)
        self._sip, _ = await loop.create_datagram_endpoint(lambda: _Socket(self._on_message), local_addr=here)
        self._rtp, _ = await loop.create_datagram_endpoint(lambda: _Socket(self._on_audio_from), local_addr=here)
        branch = _branch()
        answer = await self._ask(self._request("INVITE", branch, self._offer()), _ANSWER_S)
        if answer is None:
            raise CallFailed(f"no answer from {self._to} within {_ANSWER_S:.0f} s")
        if answer.status >= 300:
            self._remote = answer.headers.get("To") or self._remote
            self._send(self._request("ACK", branch))
            raise CallFailed(f"{answer.status} {answer.reason}", answer.status)
        try:
            self._establish(answer)
        except SipParseError as error:
            raise CallFailed(f"an answer that cannot be used: {error}") from error

    def send_audio(self, packet: bytes) -> None:
        """Send a packet of audio."""
        if self._rtp is not None and self._peer is not None:
            self._rtp.sendto(packet, self._peer)

    async def hang_up(self) -> None:
        """Send BYE, unless the far end has, and wait some seconds for its answer."""
        if self.hung_up_at is None and self._acknowledged:
            self._acknowledged = False
            self._cseq += 1
            await self._ask(self._request("BYE", _branch()), _BYE_S)

    def close(self) -> None:
        """Let both sockets go."""
        for transport in (self._sip, self._rtp):
            if transport is not None:
                transport.close()

    async def _ask(self, request: Request, within_s: float) -> Response | None:
        """Send a request until it has a final answer; None where none comes (RFC 3261, section 17.1)."""
        answers, interval, until = self._answers[request.method], T1_S, time.monotonic() + within_s
        proceeding = False
        self._send(request)
        while (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left if proceeding else min(left, interval)):
                    answer = await answers.get()
            except TimeoutError:
                if not proceeding:
                    self._send(request)
                    interval *= 2
                continue
            if answer.status >= 200:
                return answer
            proceeding = request.method == "INVITE"
        return None

    def _establish(self, answer: Response) -> None:
        """Take dialog and audio from a 2xx, and acknowledge it (RFC 3261, section 13.2.2.4)."""
        contact = answer.headers.get("Contact")
        if contact is not None:
            self._target = NameAddr.parse(contact).uri
        self._remote = answer.headers.get("To") or self._remote
        self._routes = answer.headers.all("Record-Route")[::-1]
        self._acknowledged = True
        self._send(self._request("ACK", _branch()))
        session = SessionDescription.parse(answer.body)
        stream = next((each for each in session.media if each.kind == "audio" and each.port), None)
        if stream is None or str(PAYLOAD_TYPES[self._codec]) not in stream.formats:
            raise SipParseError(f"no audio as {self._codec}")
        self._peer = (stream.connection or session.connection or self._server[0], stream.port)

    def _offer(self) -> bytes:
        assert self._rtp is not None
        family = "IP6" if ":" in self._host else "IP4"
        number, port = PAYLOAD_TYPES[self._codec], self._rtp.get_extra_info("sockname")[1]
        lines = [
            "v=0",
            f"o=- 1 1 IN {family} {self._host}",
            "s=-",
            f"c=IN {family} {self._host}",
            "t=0 0",
            f"m=audio {port} RTP/AVP {number} {KEY_PAYLOAD_TYPE}",
            f"a=rtpmap:{number} {self._codec}/8000",
            f"a=rtpmap:{KEY_PAYLOAD_TYPE} telephone-event/8000",
            f"a=fmtp:{KEY_PAYLOAD_TYPE} 0-15",
            "a=ptime:20",
            "a=sendrecv",
        ]
        return ("\r\n".join(lines) + "\r\n").encode()

    def _request(self, method: str, branch: str, body: bytes = b"") -> Request:
        assert self._sip is not None
        here = f"{format_host(self._host)}:{self._sip.get_extra_info('sockname')[1]}"
        headers = Headers()
        headers.add("Via", f"SIP/2.0/UDP {here};branch={branch};rport")
        headers.add("Max-Forwards", "70")
        for route in self._routes:
            headers.add("Route", route)
        headers.add("From", f"<sip:{self._name}@{here}>;tag={self._tag}")
        headers.add("To", self._remote)
        headers.add("Call-ID", self._call_id)
        headers.add("CSeq", f"{self._cseq} {method}")
        headers.add("Contact", f"<sip:{self._name}@{here}>")
        if body:
            headers.add("Content-Type", "application/sdp")
        return Request(method, self._target, headers, body)

    def _send(self, message: Request | Response, to: Address | None = None) -> None:
        assert self._sip is not None
        self._sip.sendto(message.serialise(), to or self._server)

    def _on_message(self, data: bytes, source: Address) -> None:
        try:
            message = parse_message(data)
        except SipParseError:
            return
        if isinstance(message, Request):
            self._on_request(message, source)
            return
        method = (message.headers.get("CSeq") or "").rpartition(" ")[2]
        if method == "INVITE" and message.status >= 200 and self._acknowledged:
            self._send(self._request("ACK", _branch()))  # ours was lost
        elif method in self._answers:
            self._answers[method].put_nowait(message)

    def _on_request(self, request: Request, source: Address) -> None:
        if request.method == "ACK":
            return
        if request.method == "BYE" and self.hung_up_at is None:
            self.hung_up_at = time.monotonic()
        good = request.method in ("BYE", "OPTIONS")
        self._send(Response.to(request, 200 if good else 405), source)

    def _on_audio_from(self, data: bytes, _: Address) -> None:
        self._on_audio(data)


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Callable[[bytes, Address], None]) -> None:
        self._on_datagram = on_datagram

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._on_datagram(data, addr)


def _branch() -> str:
    return f"z9hG4bK{secrets.token_hex(8)}"


def _facing(server: Address) -> str:
    """The address of this machine that a server is reached from; nothing is sent."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(server)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise CallFailed(f"{server[0]}: {error.strerror or error}") from error
