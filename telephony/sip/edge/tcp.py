"""SIP over TCP: connections are kept, and used both ways (RFC 3261 section 18, RFC 5923). Gateway's event loop.

A connection ends by itself: when its stream cannot be followed, when a message does not become whole within
``MESSAGE_S``, when nothing was said for ``IDLE_S``, or when its peer does not read.
"""

import asyncio
from typing import Final, Self, cast

import structlog

from telephony.errors import SipParseError
from telephony.sip.edge.transport import Address, Allows, OnMessage
from telephony.sip.message import Message, parse_message
from telephony.sip.stream import PING, PONG, StreamFramer

log = structlog.get_logger()

MAX_CONNECTIONS: Final = 1_024
MESSAGE_S: Final = 32.0
IDLE_S: Final = 7_200.0
CONNECT_S: Final = 10.0
MAX_UNSENT_BYTES: Final = 1 << 20


class _Connection(asyncio.Protocol):
    """One TCP connection, accepted or opened."""

    def __init__(self, owner: "TcpTransport") -> None:
        self._owner = owner
        self._framer = StreamFramer()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._pending = False
        self.peer: Address = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone again
            self.abort()
            return
        self.peer = peer[:2]
        if not self._owner.adopt(self):
            self.abort()
            return
        self._pending = True
        self._set_deadline(MESSAGE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.forget(self)

    def data_received(self, data: bytes) -> None:
        try:
            items = self._framer.feed(data)
            for item in items:
                if item == PING:
                    self.send(PONG)
                else:
                    self._owner.deliver(parse_message(item, stream=True), self.peer)
        except SipParseError as error:
            log.info("sip connection closed", source=self.peer, error=str(error))
            self.abort()
            return
        if items or self._framer.pending != self._pending:
            self._pending = self._framer.pending
            self._set_deadline(MESSAGE_S if self._pending else IDLE_S)

    def send(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.info("sip connection closed", source=self.peer, error="the peer does not read")
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _set_deadline(self, after_s: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(after_s, self.abort)


class TcpTransport:
    """A TCP listener and its connections."""

    name = "tcp"
    reliable = True

    def __init__(self, on_message: OnMessage, allows: Allows) -> None:
        self._on_message = on_message
        self._allows = allows
        self._server: asyncio.Server | None = None
        self._connections: dict[Address, _Connection] = {}
        self._opening: dict[Address, tuple[asyncio.Task[None], list[bytes]]] = {}
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()

    @classmethod
    async def listen(cls, host: str, port: int, on_message: OnMessage, allows: Allows) -> Self:
        """Bind; raises OSError where that fails."""
        listener = cls(on_message, allows)
        loop = asyncio.get_running_loop()
        listener._server = await loop.create_server(lambda: _Connection(listener), host.strip("[]"), port)
        return listener

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self._server is not None
        sockets = self._server.sockets
        return sockets[0].getsockname()[:2] if sockets else ("", 0)

    def send(self, data: bytes, address: Address) -> None:
        """Send over the connection to this address, opening one where none is."""
        if self._closed:
            return
        connection = self._connections.get(address)
        if connection is not None:
            connection.send(data)
        elif address in self._opening:
            self._opening[address][1].append(data)
        elif len(self._connections) + len(self._opening) < MAX_CONNECTIONS:
            # No TaskGroup reaches here from a timer's callback; wait_closed() awaits every one of these.
            task = asyncio.get_running_loop().create_task(self._open(address), name=f"sip-tcp-connect-{address[0]}")
            self._opening[address] = (task, [data])

    def connected(self, address: Address) -> bool:
        """Whether a connection to this address is open."""
        return address in self._connections

    def close(self) -> None:
        """Close the listener and every connection; idempotent."""
        self._closed = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections.values()):
            connection.abort()
        for task, _ in self._opening.values():
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until every connection is gone."""
        await asyncio.gather(*(task for task, _ in list(self._opening.values())), return_exceptions=True)
        for connection in list(self._connections.values()):
            connection.abort()
        await self._empty.wait()
        if self._server is not None:
            await self._server.wait_closed()

    async def _open(self, address: Address) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(lambda: _Connection(self), *address)
            for data in self._opening[address][1]:
                connection.send(data)
        except OSError as error:  # TimeoutError is one
            log.info("sip connection failed", address=address, error=str(error))
        finally:
            del self._opening[address]

    def adopt(self, connection: _Connection) -> bool:
        """Keep a new connection, if its peer may speak and there is room."""
        if self._closed or len(self._connections) >= MAX_CONNECTIONS or not self._allows(connection.peer[0]):
            return False
        self._connections[connection.peer] = connection
        self._empty.clear()
        return True

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that is lost."""
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
        if not self._connections:
            self._empty.set()

    def deliver(self, message: Message, source: Address) -> None:
        """Hand a message on."""
        self._on_message(message, source, self)
