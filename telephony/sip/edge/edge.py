"""The SIP edge: what a peer meets. It listens, admits, limits, and passes calls on to line workers nobody sees.

A transaction-stateful proxy of one hop (RFC 3261 section 16) on the gateway's event loop. Requests out of dialog other
than INVITE are answered here, without state. Sources that are not allowed get no answer: to a scanner nothing listens.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import NamedTuple, Self

import structlog

from config.schema import SipSettings
from telephony.sip.edge.admission import Admission, Line, Load, Refused
from telephony.sip.edge.answers import answer
from telephony.sip.edge.dialog import Dialog
from telephony.sip.edge.dialogs import Dialogs
from telephony.sip.edge.passage import Passage
from telephony.sip.edge.peer_side import PeerSide
from telephony.sip.edge.resolve import Faces
from telephony.sip.edge.response_context import ResponseContext
from telephony.sip.edge.tcp import TcpTransport
from telephony.sip.edge.transaction import Timers, TransactionTable
from telephony.sip.edge.transport import Address, Transport, UdpTransport
from telephony.sip.edge.worker_side import WorkerSide
from telephony.sip.fields import Core
from telephony.sip.invitation import Invitation
from telephony.sip.message import Message

log = structlog.get_logger()

Admit = Callable[[Invitation], Awaitable[Line]]
"""Finds a line for an admitted INVITE. Raises Refused."""


class ListenAddress(NamedTuple):
    """Where a listener of the edge really listens."""

    transport: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.transport}:{self.host}:{self.port}"


class Edge:
    """The edge; listens while its context is open.

    ``load`` tells how full the gateway is (default: the edge's own calls), ``allows`` which source addresses are
    heard (default: ``settings.allow``), ``timers`` RFC 3261's base times.
    """

    def __init__(
        self,
        settings: SipSettings,
        admit: Admit,
        load: Callable[[], Load] | None = None,
        allows: Callable[[str], bool] | None = None,
        timers: Timers | None = None,
    ) -> None:
        self._settings = settings
        self._admit = admit
        self._admission = Admission(settings)
        self._load = load or self._own_load
        self._allows = allows or self._admission.allows
        self._table = TransactionTable(timers or Timers())
        self._faces = Faces(settings.external_address)
        self._listeners: list[Transport] = []
        self._opened = False
        self._closed = False
        self._placing: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup
        self._internal: UdpTransport
        self._dialogs: Dialogs
        self._peer_side: PeerSide
        self._worker_side: WorkerSide

    @property
    def addresses(self) -> list[ListenAddress]:
        """Where the edge listens, in the order of ``settings.listen``."""
        return [ListenAddress(each.name, *each.address) for each in self._listeners]

    @property
    def active_calls(self) -> int:
        """Calls between their admission and their end."""
        return self._admission.calls

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError where an address cannot be bound, ValueError for one that is malformed."""
        self._internal = await UdpTransport.listen("127.0.0.1", 0, self._on_worker_message, _is_loopback)
        self._internal.name = "internal"
        try:
            for place in self._settings.listen:
                self._listeners.append(await self._listen(place))
        except (OSError, ValueError):
            self._close_transports()
            raise
        passage = Passage(self._internal.address, self._faces)
        self._dialogs = Dialogs(passage, self._table, self._internal, self._listeners, self._on_dialog_end)
        self._peer_side = PeerSide(self._settings, self._admission, self._dialogs, self._load, self._on_invite)
        self._worker_side = WorkerSide(self._dialogs, self._settings.ring_timeout_s)
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, and wait until everything is closed."""
        self.close()
        try:
            await self._tasks.__aexit__(None, None, None)  # the body's own exception passes as it is
        finally:
            await self.wait_closed()

    def drain(self) -> None:
        """From now on refuse new calls; running ones go on."""
        if self._opened:
            self._peer_side.draining = True

    def end_calls(self, sip_call_ids: Iterable[str], reason: str) -> None:
        """End the calls of a lost worker at their peers: BYE, or 503 where the INVITE was not answered yet."""
        for call_id in sip_call_ids if self._opened else ():
            self._dialogs.end(call_id, reason)

    def close(self) -> None:
        """Stop at once and silently; idempotent."""
        if self._closed:
            return
        self._closed = True
        if not self._opened:
            return
        for task in self._placing:
            task.cancel()
        self._dialogs.close()
        self._table.close()
        self._close_transports()

    async def wait_closed(self) -> None:
        """Wait until every socket is closed."""
        if self._opened:
            for transport in (*self._listeners, self._internal):
                await transport.wait_closed()

    async def _listen(self, place: str) -> Transport:
        name, _, host_port = place.partition(":")
        host, _, port = host_port.rpartition(":")
        if name == "udp":
            return await UdpTransport.listen(host, int(port), self._on_message, self._allows)
        if name == "tcp":
            return await TcpTransport.listen(host, int(port), self._on_message, self._allows)
        raise ValueError(f"sip.listen: {place}: only udp:HOST:PORT and tcp:HOST:PORT are known")

    def _close_transports(self) -> None:
        for transport in (*self._listeners, self._internal):
            transport.close()

    def _on_message(self, message: Message, source: Address, transport: Transport) -> None:
        if self._opened and not self._closed:
            self._peer_side.receive(message, source, transport)

    def _on_worker_message(self, message: Message, source: Address, transport: Transport) -> None:
        if self._opened and not self._closed:
            self._worker_side.receive(message, source, transport)

    def _on_invite(self, dialog: Dialog, context: ResponseContext, core: Core, invitation: Invitation) -> None:
        task = self._tasks.create_task(self._place(dialog, context, core, invitation), name=f"place {core.call_id}")
        self._placing.add(task)
        task.add_done_callback(self._placing.discard)

    async def _place(self, dialog: Dialog, context: ResponseContext, core: Core, invitation: Invitation) -> None:
        """Find a line for an INVITE and send it there; whatever goes wrong ends this call alone."""
        try:
            line = await self._admit(invitation)
            self._worker_side.know(line.sip_address)
            self._dialogs.invite(dialog, context, core, line)
        except Refused as refused:
            log.info("sip call refused", sip_call_id=core.call_id, status=refused.status, reason=refused.reason)
            context.refuse(answer(context.server.request, refused))
        except Exception:  # a fault in one call's admission must not end the others
            log.exception("sip admission failed", sip_call_id=core.call_id)
            context.refuse(context.own_response(500))

    def _own_load(self) -> Load:
        return Load(self.active_calls, self._settings.max_calls)

    def _on_dialog_end(self, dialog: Dialog) -> None:
        self._admission.end(dialog.source)


def _is_loopback(host: str) -> bool:
    return host == "127.0.0.1"
