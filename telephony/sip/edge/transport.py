"""What carries SIP messages: the seam that UDP, TCP and later TLS share, and UDP itself (RFC 3261 section 18).

Transports parse: what they hand on is a message, never bytes. They run on the gateway's event loop.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, Self, cast

import structlog

from telephony.errors import SipParseError
from telephony.sip.message import Message, parse_message

log = structlog.get_logger()

Address = tuple[str, int]
"""Numeric host and port."""

_RECEIVE_BUFFER: Final = 1 << 20


class Transport(Protocol):
    """A listening socket of the edge, and the way out for what answers through it."""

    name: str  # "udp" or "tcp", as in a URI's transport parameter
    reliable: bool

    @property
    def address(self) -> Address:
        """Where it listens."""

    def send(self, data: bytes, address: Address) -> None:
        """Send one message; what cannot be sent is dropped and logged."""

    def connected(self, address: Address) -> bool:
        """Whether a connection to this address is open; never for UDP."""

    def close(self) -> None:
        """Stop at once; idempotent."""

    async def wait_closed(self) -> None:
        """Wait until every socket is closed."""


OnMessage = Callable[[Message, Address, Transport], None]
Allows = Callable[[str], bool]


class UdpTransport(asyncio.DatagramProtocol):
    """SIP over UDP."""

    name = "udp"
    reliable = False

    def __init__(self, on_message: OnMessage, allows: Allows) -> None:
        self._on_message = on_message
        self._allows = allows
        self._transport: asyncio.DatagramTransport | None = None
        self._address: Address = ("", 0)
        self._closed = asyncio.Event()

    @classmethod
    async def listen(cls, host: str, port: int, on_message: OnMessage, allows: Allows) -> Self:
        """Bind; raises OSError where that fails."""
        loop = asyncio.get_running_loop()
        _, transport = await loop.create_datagram_endpoint(
            lambda: cls(on_message, allows), local_addr=(host.strip("[]"), port)
        )
        return transport

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._address

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, address)

    def connected(self, address: Address) -> bool:
        """UDP knows no connections."""
        return False

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        await self._closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio once bound."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # not a subclass of it in asyncio itself
        self._address = transport.get_extra_info("sockname")[:2]

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio once closed."""
        self._closed.set()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Called by asyncio for each datagram; keep-alives and what is no SIP are dropped."""
        source: Address = (addr[0], addr[1])
        if not self._allows(source[0]) or not data.strip(b"\r\n\0 "):
            return
        try:
            message = parse_message(data)
        except SipParseError as error:
            log.debug("sip datagram dropped", source=source, error=str(error))
            return
        self._on_message(message, source, self)

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio for an ICMP error; the transactions' timers deal with what is lost."""
        log.debug("sip datagram not delivered", error=str(exc))
