"""A small SIP caller whose RTP leaves on an absolute 20 ms schedule: load for measurements, and ears for tests.

One UDP socket for SIP and one for RTP per call; everything runs on the test's event loop. It is no SIP stack: it
follows Record-Route and Contact, answers BYE and REFER, repeats what UDP may lose, and knows G.711 and keys (RFC 4733).
What must be shown with somebody else's stack is shown with baresip and SIPp.
"""

import asyncio
import itertools
import re
import secrets
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from tests.peers import g711, rtp
from tests.peers.audio import Samples

T1 = 0.5  # RFC 3261 section 17.1.1.1
ANSWER_S = 10.0
KEYS = "0123456789*#ABCD"  # RFC 4733 section 3.2
KEY_PAYLOAD_TYPE = 101
_MIRRORED = ("via", "from", "to", "call-id", "cseq")  # RFC 3261 section 8.2.6.2
Address = tuple[str, int]
T = TypeVar("T")


class CallRefused(Exception):
    """The INVITE got a final answer that is no 2xx."""

    def __init__(self, status: int, headers: dict[str, str], after_s: float) -> None:
        super().__init__(f"{status} after {after_s * 1000:.0f} ms")
        self.status = status
        self.headers = headers
        """By lower-case name; the first of each."""
        self.after_s = after_s


class Caller:
    """One call. Made by ``call()``."""

    def __init__(
        self, server: Address, called: str, audio: Samples | bytes, payload_type: int, name: str = "caller"
    ) -> None:
        self._server = server
        self._uri = f"sip:{called}@{server[0]}:{server[1]}"
        self._payload_type = payload_type
        self.say(audio)
        self._keys: deque[bytes | None] = deque()
        self._name = name
        self._tasks: list[asyncio.Task[None]] = []
        self.transfers: list[str] = []
        """The Refer-To of each REFER that came."""
        self.transfer_status = 200
        """What the target of a transfer is reported to answer."""
        self.transfer_takes_s = 0.0
        """How long it takes to answer."""
        self.call_id = secrets.token_hex(8)
        self._tag = secrets.token_hex(4)
        self._cseq = 1
        self._dialog: tuple[str, list[str], str] | None = None  # remote target, route set, To
        self._answer: asyncio.Future[tuple[int, dict[str, str], str]] = asyncio.get_running_loop().create_future()
        self._bye_answered = asyncio.Event()
        self._sip: asyncio.DatagramTransport
        self._rtp: asyncio.DatagramTransport
        self._rtp_peer: Address | None = None
        self.heard: list[rtp.Packet] = []
        """RTP that came, with ``time.monotonic()`` of its arrival."""
        self.spoke_at: list[float] = []
        """``time.monotonic()`` at which each packet of the audio was sent."""
        self.ended = asyncio.Event()
        """Set when the far end has sent BYE."""
        self.ended_at: float | None = None
        """``time.monotonic()`` of that BYE."""
        self.answered_after_s = 0.0

    @property
    def rtp_port(self) -> int:
        """The local port of the audio."""
        port: int = self._rtp.get_extra_info("sockname")[1]
        return port

    @property
    def rtp_peer(self) -> Address | None:
        """Where the far end wants the audio."""
        return self._rtp_peer

    def hears_since(self, at: float) -> bool:
        """Whether a packet without silence has come after ``at`` (``time.monotonic()``)."""
        fresh = itertools.takewhile(lambda packet: packet.at > at, reversed(self.heard))
        return any(not rtp.silent(packet) for packet in fresh)

    async def open(self) -> None:
        """Call and return when the call is up; raises ``CallRefused``."""
        loop = asyncio.get_running_loop()
        self._sip, _ = await loop.create_datagram_endpoint(lambda: _Socket(self._on_sip), local_addr=("127.0.0.1", 0))
        self._rtp, _ = await loop.create_datagram_endpoint(lambda: _Socket(self._on_rtp), local_addr=("127.0.0.1", 0))
        self._branch = f"z9hG4bK{secrets.token_hex(8)}"
        started = time.monotonic()
        try:
            invite = self._request("INVITE", self._branch, self._offer())
            status, headers, body = await self._repeated(invite, self._answer)
        except TimeoutError as fault:
            raise CallRefused(408, {}, ANSWER_S) from fault
        self.answered_after_s = time.monotonic() - started
        if status >= 300:
            self._send(self._request("ACK", self._branch, to=headers["to"]))
            raise CallRefused(status, headers, self.answered_after_s)
        self._dialog = (
            _uri(headers["contact"]),
            [route.strip() for route in headers.get("record-route", "").split(",") if route.strip()][::-1],
            headers["to"],
        )
        self._send(self._request("ACK", f"z9hG4bK{secrets.token_hex(8)}"))
        address = re.search(r"^c=IN IP4 (\S+)", body, re.M)
        port = re.search(r"^m=audio (\d+)", body, re.M)
        assert address is not None, body
        assert port is not None, body
        self._rtp_peer = (address[1], int(port[1]))

    def say(self, audio: Samples | bytes) -> None:
        """Say this (8 kHz) from now on, over and over."""
        coded = audio if isinstance(audio, bytes) else g711.encode(audio, self._payload_type)
        size = rtp.PACKET_SAMPLES
        self._audio = itertools.cycle([coded[i : i + size] for i in range(0, len(coded) - size + 1, size)])

    def press(self, keys: str) -> None:
        """Press keys, each for 100 ms with 100 ms after it, in the place of the audio (RFC 4733)."""
        for key in keys:
            for last, duration in [(False, n * rtp.PACKET_SAMPLES) for n in range(1, 6)] + [(True, 800)] * 3:
                self._keys.append(struct.pack("!BBH", KEYS.index(key), last << 7 | 10, duration))
            self._keys.extend([None] * 5)

    async def speak(self) -> None:
        """Send the audio over and over, a packet every 20 ms of absolute time, until cancelled."""
        assert self._rtp_peer is not None
        loop = asyncio.get_running_loop()
        ssrc = secrets.randbits(32)
        first = loop.time()
        pressed_at = None
        for number in itertools.count():
            delay = first + number * rtp.PACKET_S - loop.time()
            if delay > 0:
                await asyncio.sleep(delay)
            key = self._keys.popleft() if self._keys else None
            pressed_at = None if key is None else number if pressed_at is None else pressed_at
            kind, at = (self._payload_type, number) if pressed_at is None else (KEY_PAYLOAD_TYPE, pressed_at)
            content = next(self._audio) if key is None else key
            packet = rtp.build(kind, number, at * rtp.PACKET_SAMPLES, ssrc, content, number in (0, pressed_at))
            self._rtp.sendto(packet, self._rtp_peer)
            self.spoke_at.append(time.monotonic())

    async def hangup(self) -> None:
        """Send BYE unless the far end has, and wait for its answer."""
        if self._dialog is None or self.ended.is_set():
            return
        self._cseq += 1
        done = asyncio.ensure_future(self._bye_answered.wait())
        await self._repeated(self._request("BYE", f"z9hG4bK{secrets.token_hex(8)}"), done)
        self._dialog = None

    def close(self) -> None:
        """Let both sockets go."""
        for task in self._tasks:
            task.cancel()
        self._sip.close()
        self._rtp.close()

    def _offer(self) -> str:
        name = {0: "PCMU", 8: "PCMA"}[self._payload_type]
        return (
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
            f"m=audio {self.rtp_port} RTP/AVP {self._payload_type} {KEY_PAYLOAD_TYPE}\r\n"
            f"a=rtpmap:{self._payload_type} {name}/8000\r\n"
            f"a=rtpmap:{KEY_PAYLOAD_TYPE} telephone-event/8000\r\na=fmtp:{KEY_PAYLOAD_TYPE} 0-15\r\n"
            "a=ptime:20\r\na=sendrecv\r\n"
        )

    def _request(self, method: str, branch: str, body: str = "", to: str = "", headers: tuple[str, ...] = ()) -> bytes:
        target, routes, remote = self._dialog or (self._uri, [], to or f"<{self._uri}>")
        host, port = self._sip.get_extra_info("sockname")
        lines = [
            f"{method} {target} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};branch={branch};rport",
            "Max-Forwards: 70",
            *[f"Route: {route}" for route in routes],
            f"From: <sip:{self._name}@{host}:{port}>;tag={self._tag}",
            f"To: {remote}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {self._cseq} {method}",
            f"Contact: <sip:caller@{host}:{port}>",
            *(headers or (["Content-Type: application/sdp"] if body else [])),
            f"Content-Length: {len(body)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    def _send(self, message: bytes) -> None:
        self._sip.sendto(message, self._server)

    async def _repeated(self, message: bytes, answer: asyncio.Future[T]) -> T:
        """Send a request until it is answered (RFC 3261 section 17.1.1.2, Timer A)."""
        interval = T1
        async with asyncio.timeout(ANSWER_S):
            while True:
                self._send(message)
                done, _ = await asyncio.wait([answer], timeout=interval)
                if done:
                    return answer.result()
                interval *= 2

    def _on_sip(self, data: bytes, source: Address) -> None:
        head, _, body = data.decode(errors="replace").partition("\r\n\r\n")
        start, *lines = head.split("\r\n")
        headers: dict[str, str] = {}
        for name, _, value in (line.partition(":") for line in lines):
            key = name.strip().lower()
            if key == "record-route" and key in headers:
                headers[key] += "," + value.strip()
            else:
                headers.setdefault(key, value.strip())
        if not start.startswith("SIP/2.0 "):
            self._on_request(start.split(" ", 1)[0], lines, source)
            return
        status, method = int(start.split(" ")[1]), headers["cseq"].split()[-1]
        if method == "BYE" and status >= 200:
            self._bye_answered.set()
        elif method == "INVITE" and status >= 200:
            if self._answer.done():
                if status < 300 and self._dialog is not None:  # our ACK was lost
                    self._send(self._request("ACK", f"z9hG4bK{secrets.token_hex(8)}"))
            else:
                self._answer.set_result((status, headers, body))

    def _on_request(self, method: str, lines: list[str], source: Address) -> None:
        if method == "ACK":
            return
        if method == "BYE" and not self.ended.is_set():
            self.ended_at = time.monotonic()
            self.ended.set()
        kept = [line for line in lines if line.split(":")[0].strip().lower() in _MIRRORED]
        status = {"BYE": "200 OK", "OPTIONS": "200 OK", "REFER": "202 Accepted"}.get(method, "488 Not Acceptable Here")
        self._sip.sendto("\r\n".join([f"SIP/2.0 {status}", *kept, "Content-Length: 0", "", ""]).encode(), source)
        if method == "REFER":
            target = next(line for line in lines if line.lower().startswith("refer-to:"))
            self.transfers.append(target.split(":", 1)[1].strip())
            self._tasks.append(asyncio.create_task(self._report(), name="report of a transfer"))

    async def _report(self) -> None:
        """Tell how a transfer goes (RFC 3515 section 2.4.4)."""
        for status, state in ((100, "active;expires=60"), (self.transfer_status, "terminated;reason=noresource")):
            self._cseq += 1
            headers = ("Event: refer", f"Subscription-State: {state}", "Content-Type: message/sipfrag;version=2.0")
            branch = f"z9hG4bK{secrets.token_hex(8)}"
            self._send(self._request("NOTIFY", branch, f"SIP/2.0 {status} So\r\n", headers=headers))
            if status == 100:
                await asyncio.sleep(self.transfer_takes_s)

    def _on_rtp(self, data: bytes, _: Address) -> None:
        packet = rtp.parse(data, time.monotonic())
        if packet is not None:
            self.heard.append(packet)


@asynccontextmanager
async def call(
    server: Address, called: str, audio: Samples | bytes, payload_type: int = 0, name: str = "caller"
) -> AsyncIterator[Caller]:
    """Call ``called`` at ``server`` and speak ``audio`` (8 kHz, repeated) until the context ends; then hang up.

    Raises ``CallRefused``. ``payload_type``: 0 PCMU, 8 PCMA. Audio as bytes is encoded already: with many calls,
    encoding each one's would hold up the packets of the others.
    """
    caller = Caller(server, called, audio, payload_type, name)
    try:
        await caller.open()
        speaking = asyncio.create_task(caller.speak(), name=f"speak {caller.call_id}")
        try:
            yield caller
        finally:
            speaking.cancel()
            await asyncio.wait([speaking])
            await caller.hangup()
    finally:
        caller.close()


class _Socket(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Callable[[bytes, Address], None]) -> None:
        self._on_datagram = on_datagram

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._on_datagram(data, addr)


def _uri(contact: str) -> str:
    found = re.search(r"<([^>]+)>", contact)
    return found[1] if found else contact.split(";")[0].strip()
