"""Scripted far ends for tests of the edge: a peer and a line worker, real sockets with a line of SIP each.

Unrealistic in that neither repeats anything by itself: a test says what is sent, and when.
"""

import asyncio
import re
import socket

from telephony.sip.message import Message, Request, Response, parse_message
from telephony.sip.stream import StreamFramer

OFFER = (
    b"v=0\r\no=alice 1 1 IN IP4 127.0.0.1\r\ns=call\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 8 0\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n"
)
WITHIN_S = 5.0


class Datagrams:
    """A UDP socket that speaks SIP."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.setblocking(False)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.raw: list[bytes] = []
        self.last_source: tuple[str, int] = ("", 0)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, message: Message | bytes, to: tuple[str, int]) -> None:
        """Send a message, or bytes."""
        self._socket.sendto(message if isinstance(message, bytes) else message.serialise(), to)

    async def receive(self) -> Message:
        """The next message."""
        async with asyncio.timeout(WITHIN_S):
            data, source = await asyncio.get_running_loop().sock_recvfrom(self._socket, 65_535)
        self.last_source = source[:2]
        self.raw.append(data)
        return parse_message(data)

    async def expect(self, method: str) -> Request:
        """The next message, which is this request; repetitions of what came before may stand in between."""
        while True:
            message = await self.receive()
            if isinstance(message, Request) and message.method == method:
                return message
            assert self.raw[-1] in self.raw[:-1], message

    async def response(self, status: int, method: str = "") -> Response:
        """The next response that is not 100, which has this status; repetitions may stand in between."""
        while True:
            message = await self.receive()
            if isinstance(message, Response) and message.status == status:
                assert (message.headers.get("CSeq") or "").endswith(method), message
                return message
            trying = isinstance(message, Response) and message.status == 100
            assert trying or self.raw[-1] in self.raw[:-1], message

    async def silent(self, for_s: float = 0.1) -> bool:
        """Whether nothing new comes for a while; repetitions are nothing new."""
        try:
            async with asyncio.timeout(for_s):
                while True:
                    data = await asyncio.get_running_loop().sock_recv(self._socket, 65_535)
                    if data not in self.raw:
                        self.raw.append(data)
                        return False
        except TimeoutError:
            return True


class Stream(Datagrams):
    """A TCP connection that speaks SIP."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._framer = StreamFramer()
        self._messages: list[bytes] = []
        self.raw = []

    @classmethod
    async def connect(cls, to: tuple[str, int]) -> "Stream":
        """Open a connection."""
        stream = cls()
        stream._socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stream._socket, to)
        stream.address = stream._socket.getsockname()
        return stream

    def send(self, message: Message | bytes, to: tuple[str, int] = ("", 0)) -> None:
        """Send over the connection."""
        data = message if isinstance(message, bytes) else message.serialise()
        assert self._socket.send(data) == len(data)

    async def read(self) -> bytes:
        """What comes next, b"" at the end."""
        async with asyncio.timeout(WITHIN_S):
            return await asyncio.get_running_loop().sock_recv(self._socket, 65_535)

    async def receive(self) -> Message:
        """The next message."""
        while not self._messages:
            data = await self.read()
            assert data, "closed"
            self._messages += self._framer.feed(data)
        data = self._messages.pop(0)
        self.raw.append(data)
        return parse_message(data, stream=True)


class Caller:
    """The requests of one call from a peer."""

    def __init__(
        self, end: Datagrams, call_id: str = "call-1@test", called: str = "1000", *, tcp: bool = False
    ) -> None:
        self.end = end
        self.call_id = call_id
        self.called = called
        self.transport = "TCP" if tcp else "UDP"
        self.cseq = 0
        self.to_tag = ""
        self.route: list[str] = []
        self.target = ""
        self._branches = 0

    def request(self, method: str, body: bytes = b"", *, branch: str = "", **fields: str) -> Request:
        """A request of this call, with a new branch and CSeq where it needs one."""
        if method not in ("ACK", "CANCEL"):
            self.cseq += 1
        if not branch:
            self._branches += 1
            branch = f"z9hG4bK-{self.call_id}-{self._branches}"
        host, port = self.end.address
        host = f"[{host}]" if ":" in host else host
        request = Request(method, self.target or f"sip:{self.called}@127.0.0.1")
        add = request.headers.add
        add("Via", f"SIP/2.0/{self.transport} {host}:{port};rport;branch={branch}")
        for route in self.route:
            add("Route", route)
        add("Max-Forwards", "70")
        add("From", f'"A. Caller" <sip:alice@{host}:{port}>;tag=peer-tag')
        add("To", f"<sip:{self.called}@127.0.0.1>" + (f";tag={self.to_tag}" if self.to_tag else ""))
        add("Call-ID", self.call_id)
        add("CSeq", f"{self.cseq} {method}")
        if method in ("INVITE", "UPDATE"):
            add("Contact", f"<sip:alice@{host}:{port}{';transport=tcp' if self.transport == 'TCP' else ''}>")
        for name, value in fields.items():
            request.headers.replace(name.replace("_", "-"), [value])
        if body:
            if request.headers.get("Content-Type") is None:
                add("Content-Type", "application/sdp")
            request.body = body
        return request

    def confirm(self, answer: Response) -> None:
        """Take tag, route set and remote target from a 2xx."""
        tag = re.search(r"tag=([^;>]+)", answer.headers.get("To") or "")
        assert tag is not None
        self.to_tag = tag.group(1)
        self.route = answer.headers.all("Record-Route")[::-1]
        self.target = (answer.headers.get("Contact") or "").strip("<>")

    def branch_of(self, request: Request) -> str:
        """The branch of a request."""
        found = re.search(r"branch=([^;]+)", request.headers.get("Via") or "")
        assert found is not None
        return found.group(1)


class Worker(Datagrams):
    """A line worker's SIP side."""

    def __init__(self) -> None:
        super().__init__()
        self.released = 0
        self.to_tag = "worker-tag"
        self._cseq = 7_000

    @property
    def sip_address(self) -> tuple[str, int]:
        """Where it listens."""
        return self.address

    def release(self) -> None:
        """Count the releases."""
        self.released += 1

    def respond(self, request: Request, status: int, body: bytes = b"", **fields: str) -> None:
        """Answer a request, to where its Via says."""
        response = Response.to(request, status, "Worker Says", self.to_tag)
        host, port = self.address
        add = response.headers.add
        add("Contact", f"<sip:line@{host}:{port};ob>")
        add("Server", f"pjsip {host}:{port}")
        add("Warning", f'399 {host}:{port} "inner"')
        add("Allow", "INVITE, ACK, BYE, CANCEL, REFER, NOTIFY")
        for name, value in fields.items():
            add(name.replace("_", "-"), value)
        if body:
            add("Content-Type", "application/sdp")
            response.body = body
        via = re.search(r" ([\d.]+):(\d+)", request.headers.get("Via") or "")
        assert via is not None
        self.send(response, (via.group(1), int(via.group(2))))

    def answer_body(self) -> bytes:
        """Its session description, full of its own address."""
        host, port = self.address
        return (
            f"v=0\r\no=- 5 5 IN IP4 {host}\r\ns=pjmedia\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio 30000 RTP/AVP 8\r\n"
            f"a=rtcp:30001 IN IP4 {host}\r\na=candidate:1 1 UDP 1 {host} {port} typ host\r\na=sendrecv\r\n"
        ).encode()

    def request(self, invite: Request, method: str, body: bytes = b"", **fields: str) -> Request:
        """A request of its own inside the dialog of an INVITE it got."""
        self._cseq += method != "ACK"
        contact = (invite.headers.get("Contact") or "").strip("<>")
        request = Request(method, contact)
        host, port = self.address
        add = request.headers.add
        add("Via", f"SIP/2.0/UDP {host}:{port};rport;branch=z9hG4bKPj{self._cseq}{method}")
        add("Max-Forwards", "70")
        add("From", f"{invite.headers.get('To')};tag={self.to_tag}")
        add("To", invite.headers.get("From") or "")
        add("Call-ID", invite.headers.get("Call-ID") or "")
        add("CSeq", f"{self._cseq} {method}")
        add("Contact", f"<sip:line@{host}:{port};ob>")
        add("User-Agent", f"pjsip {host}:{port}")
        for name, value in fields.items():
            add(name.replace("_", "-"), value)
        if body:
            add("Content-Type", "application/sdp")
            request.body = body
        return request
