"""What server and client transactions share: timers, identity, the table they are found in (RFC 3261 section 17).

Runs on the gateway's event loop; timers are the loop's.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import structlog

from telephony.sip.edge.transport import Address, Transport
from telephony.sip.edge.validation import Rejection
from telephony.sip.fields import MAGIC_COOKIE, Core
from telephony.sip.message import Message, Request, Response

log = structlog.get_logger()

MAX_TRANSACTIONS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Timers:
    """The base values every timer is made of (RFC 3261 table 4), in seconds."""

    t1_s: float = 0.5
    t2_s: float = 4.0
    t4_s: float = 5.0

    @property
    def timeout_s(self) -> float:
        """64*T1: timers B, D, F, H, J, L and M."""
        return 64 * self.t1_s


class State(Enum):
    """The states of all four machines (RFC 3261 figures 5 to 8, RFC 6026 figures 1 and 2)."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where a transaction sends: a transport and an address."""

    transport: Transport
    address: Address

    def send(self, message: Message) -> None:
        """Write the message anew and send it."""
        what = message.method if isinstance(message, Request) else message.status
        sip_call_id = message.headers.get("Call-ID")
        log.debug("sip message sent", what=what, to=self.address, sip_call_id=sip_call_id)
        self.transport.send(message.serialise(), self.address)


class Clock:
    """The named timers of one transaction."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: dict[str, asyncio.TimerHandle] = {}

    def start(self, name: str, after_s: float, callback: Callable[..., None], *args: Any) -> None:
        """Start a timer, or start it again."""
        self.stop(name)
        self._running[name] = asyncio.get_running_loop().call_later(after_s, callback, *args)

    def stop(self, name: str) -> None:
        """Stop a timer if it runs."""
        timer = self._running.pop(name, None)
        if timer is not None:
            timer.cancel()

    def stop_all(self) -> None:
        """Stop every timer."""
        for timer in self._running.values():
            timer.cancel()
        self._running.clear()


class TransactionUser(Protocol):
    """Who a client transaction reports to."""

    def on_response(self, response: Response) -> None:
        """A response came; retransmissions of final ones do not, except of a 2xx to INVITE."""

    def on_timeout(self) -> None:
        """No final response came in time."""


class ServerTransaction(Protocol):
    """The edge as the server of one request."""

    request: Request
    state: State
    on_cancel: Callable[[], None] | None  # what a CANCEL of this request does

    def respond(self, response: Response) -> None:
        """Send a response, as far as the state allows it."""

    def repeat(self) -> None:
        """The request came again."""

    def acknowledge(self) -> None:
        """An ACK for a final response that is no 2xx came."""

    def terminate(self) -> None:
        """End at once, silently; idempotent."""


class ClientTransaction(Protocol):
    """The edge as the client of one request."""

    request: Request
    outlet: Outlet
    state: State

    def receive(self, response: Response) -> None:
        """A response came."""

    def terminate(self) -> None:
        """End at once, silently; idempotent."""


ServerKey = tuple[str, ...]
ClientKey = tuple[str, str]


def server_key(core: Core, uri: str, source: Address) -> ServerKey:
    """What identifies a request's server transaction (section 17.2.3); ACK and CANCEL have their INVITE's.

    Retransmissions come from the same host, so that is part of it.
    """
    method = "INVITE" if core.method in ("ACK", "CANCEL") else core.method
    via = core.via
    if via.branch.startswith(MAGIC_COOKIE) and len(via.branch) > len(MAGIC_COOKIE):
        return (method, source[0], via.branch, via.sent_by)
    return (method, source[0], via.branch, via.sent_by, uri, core.from_tag, core.call_id, str(core.cseq))


class TransactionTable:
    """The living transactions of the edge."""

    def __init__(self, timers: Timers) -> None:
        self.timers = timers
        self.servers: dict[ServerKey, ServerTransaction] = {}
        self.clients: dict[ClientKey, ClientTransaction] = {}

    @property
    def full(self) -> bool:
        """Whether no further transaction is taken."""
        return len(self.servers) + len(self.clients) >= MAX_TRANSACTIONS

    def add_server(self, key: ServerKey, transaction: ServerTransaction) -> None:
        """Keep a server transaction until it says that it ended."""
        self.servers[key] = transaction

    def add_client(self, key: ClientKey, transaction: ClientTransaction) -> None:
        """Keep a client transaction until it says that it ended."""
        self.clients[key] = transaction

    def receive(self, response: Response, core: Core, source: Address, internal: Transport | None = None) -> None:
        """Give a response to the transaction that waits for it; stray ones are dropped.

        ``internal``: the transport facing the workers, where the response came through it. A worker may answer only
        what that worker was asked, and a peer nothing that a worker was asked.
        """
        transaction = self.clients.get((core.via.branch, core.method))
        if transaction is not None:
            outlet = transaction.outlet
            asked = outlet == Outlet(internal, source) if internal is not None else outlet.transport.name != "internal"
            if asked:
                transaction.receive(response)
                return
        log.debug("sip stray response dropped", source=source, status=response.status)

    def close(self) -> None:
        """End every transaction."""
        for server in list(self.servers.values()):
            server.terminate()
        for client in list(self.clients.values()):
            client.terminate()


def cancel(table: TransactionTable, key: ServerKey) -> None:
    """Do what a CANCEL asks (section 9.2): the answer is the Rejection raised, 200 or 481, and goes out first."""
    transaction = table.servers.get(key)
    if transaction is None:
        raise Rejection(481)
    if transaction.on_cancel is not None:
        asyncio.get_running_loop().call_soon(transaction.on_cancel)
    raise Rejection(200)
