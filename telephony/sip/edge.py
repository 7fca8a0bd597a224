"""The SIP edge: what a peer meets. It listens, admits, limits, and passes calls on to line workers nobody sees.

A transaction-stateful proxy of one hop (RFC 3261 section 16) on the gateway's event loop. Requests out of dialog other
than INVITE are answered here, without state. Sources that are not allowed get no answer: to a scanner nothing listens.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, NamedTuple, Self

import structlog

from config.schema import SipRateLimit, SipSettings
from telephony.errors import SipParseError
from telephony.sip.admission import Admission, Line, Load, Refused, TokenBuckets
from telephony.sip.dialog import Dialog
from telephony.sip.dialogs import Dialogs
from telephony.sip.fields import Core, Via, read_contact
from telephony.sip.invitation import Invitation
from telephony.sip.message import Message, Request, Response
from telephony.sip.passage import SERVER, Passage
from telephony.sip.resolve import Faces
from telephony.sip.response_context import ResponseContext
from telephony.sip.server_transaction import serve
from telephony.sip.tcp import TcpTransport
from telephony.sip.transaction import Outlet, ServerKey, State, Timers, TransactionTable, server_key
from telephony.sip.transport import Address, Transport, UdpTransport
from telephony.sip.uri import NameAddr, SipUri, unescape
from telephony.sip.validation import (
    ALLOWED,
    EXTENSIONS,
    Rejection,
    check_accept,
    check_codecs,
    check_content,
    check_method,
    check_path,
    check_uri,
)

log = structlog.get_logger()

MAX_WORKERS: Final = 4_096

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
        self._workers: OrderedDict[Address, None] = OrderedDict()
        self._may_log = TokenBuckets(SipRateLimit(per_s=0.2, burst=5))
        self._secret = secrets.token_bytes(16)
        self._draining = False
        self._opened = False
        self._closed = False
        self._placing: set[asyncio.Task[None]] = set()
        self._tasks: asyncio.TaskGroup
        self._internal: UdpTransport
        self._passage: Passage
        self._dialogs: Dialogs

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
        self._passage = Passage(self._internal.address, self._faces)
        self._dialogs = Dialogs(self._passage, self._table, self._internal, self._listeners, self._on_dialog_end)
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
        self._draining = True

    def end_calls(self, sip_call_ids: Iterable[str], reason: str) -> None:
        """End the calls of a lost worker at their peers: BYE, or 503 where the INVITE was not answered yet."""
        for call_id in sip_call_ids:
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

    # -- from peers --

    def _on_message(self, message: Message, source: Address, transport: Transport) -> None:
        if self._closed:
            return
        if isinstance(message, Request):
            self._mark_received(message, source)
        try:
            core = Core.read(message)
        except SipParseError as error:
            self._on_malformed(message, error, source, transport)
            return
        if isinstance(message, Response):
            self._table.receive(message, core, source)
            return
        log.debug("sip request", method=message.method, source=source, sip_call_id=core.call_id)
        reply = _reply_outlet(core.via, source, transport)
        key = server_key(core, message.uri, source)
        transaction = self._table.servers.get(key)
        try:
            if message.method == "ACK":
                self._on_ack(message, core, key)
            elif message.method == "CANCEL":
                self._on_cancel(key)
            elif transaction is not None:
                transaction.repeat()
            elif self._table.full:
                log.warning("sip request dropped", error="too many transactions")
            elif core.to_tag:
                self._in_dialog(message, core, key, reply, Outlet(transport, source))
            else:
                self._out_of_dialog(message, core, key, reply, Outlet(transport, source))
        except Rejection as rejection:
            self._log_refusal(core.call_id, source, rejection.status)
            self._reply(message, rejection, reply)

    @staticmethod
    def _mark_received(request: Request, source: Address) -> None:
        vias = request.headers.all("Via")
        try:
            vias[:1] = [str(Via.parse(vias[0]).received_from(source))]
        except (SipParseError, IndexError):
            return  # Core.read says what is wrong
        request.headers.replace("Via", vias)

    def _on_malformed(self, message: Message, error: SipParseError, source: Address, transport: Transport) -> None:
        """A message that is wrong in some field: a request gets its answer, if it says where to."""
        if not isinstance(message, Request) or message.method == "ACK":
            log.debug("sip message dropped", source=source, error=str(error))
            return
        try:
            via = Via.parse((message.headers.all("Via") or [""])[0])
        except SipParseError:
            return
        if not self._admission.within_rate(source[0], _now()):
            return
        self._log_refusal(message.headers.get("Call-ID") or "", source, error.status)
        reason = None if error.status == 505 else str(error)
        self._reply(message, Rejection(error.status, reason), _reply_outlet(via, source, transport))

    def _on_ack(self, request: Request, core: Core, key: ServerKey) -> None:
        transaction = self._table.servers.get(key)
        if transaction is not None and transaction.state is not State.ACCEPTED:
            transaction.acknowledge()
            return
        dialog = self._dialogs.of_peer(core)
        if dialog is not None:
            self._dialogs.acknowledge_worker(dialog, request, core)

    def _on_cancel(self, key: ServerKey) -> None:
        transaction = self._table.servers.get(key)
        if transaction is None:
            raise Rejection(481)
        if transaction.on_cancel is not None:
            asyncio.get_running_loop().call_soon(transaction.on_cancel)  # the CANCEL's own answer goes first
        raise Rejection(200)

    def _in_dialog(self, request: Request, core: Core, key: ServerKey, reply: Outlet, peer: Outlet) -> None:
        check_method(request.method, in_dialog=True)
        dialog = self._dialogs.of_peer(core)
        if dialog is None:
            raise Rejection(481)
        check_path(request, core, self._passage.instance)
        check_content(request)
        if request.method == "OPTIONS":
            raise Rejection(200, **self._abilities())
        dialog.peer = peer
        transaction = serve(key, request, reply, self._table)
        try:
            self._dialogs.forward_to_worker(dialog, transaction, core, self._settings.ring_timeout_s)
        except Rejection as rejection:
            transaction.respond(rejection.answer(request, ""))

    def _out_of_dialog(self, request: Request, core: Core, key: ServerKey, reply: Outlet, peer: Outlet) -> None:
        if not self._admission.within_rate(peer.address[0], _now()):
            raise self._busy("Too Many Requests")
        if request.method != "INVITE":
            self._check(request, core)
            raise self._options()
        transaction = serve(key, request, reply, self._table)
        try:
            dialog, invitation = self._read_invite(request, core, peer)
            if self._draining:
                raise self._busy("Shutting Down")
            self._admission.begin(peer.address[0])
        except (Rejection, Refused) as refusal:
            self._log_refusal(core.call_id, peer.address, refusal.status)
            transaction.respond(_answer(request, refusal))
            return
        context = self._dialogs.begin(dialog, transaction, self._settings.ring_timeout_s)
        transaction.respond(Response.to(request, 100))
        task = self._tasks.create_task(self._place(dialog, context, core, invitation), name=f"place {core.call_id}")
        self._placing.add(task)
        task.add_done_callback(self._placing.discard)

    def _check(self, request: Request, core: Core) -> SipUri:
        check_method(request.method, in_dialog=False)
        uri = check_uri(request.uri)
        check_path(request, core, self._passage.instance)
        return uri

    def _options(self) -> Rejection:
        load = self._load()
        fields = {**self._abilities(), "X_Denwa_Load": f"calls={load.calls}; max={load.max_calls}"}
        if load.full or self._draining:
            return Rejection(503, Retry_After=str(self._settings.retry_after_s), **fields)
        return Rejection(200, **fields)

    def _read_invite(self, request: Request, core: Core, peer: Outlet) -> tuple[Dialog, Invitation]:
        """What an INVITE asks for. Raises Rejection."""
        uri = self._check(request, core)
        if core.call_id in self._dialogs:
            raise Rejection(482, "Merged Request")
        check_accept(request)
        codecs = check_codecs(check_content(request), list(self._settings.codecs))
        try:
            target = read_contact(request.headers) or str(SipUri.parse(core.from_.uri))
            routes = [str(NameAddr.parse(route)) for route in request.headers.all("Record-Route")]
        except SipParseError as error:
            raise Rejection(400, str(error)) from None
        transport, source = peer.transport, peer.address
        own = self._passage.own_uri(transport, source[0])
        record_route = SipUri(own.host, "", own.port, {**own.params, "lr": None})
        contact = self._passage.own_uri(transport, source[0], uri.user.partition(";")[0])
        dialog = Dialog(
            *(core.call_id, core.from_, core.to, target, tuple(routes), peer),
            contact=str(contact),
            record_route=f"<{record_route}>",
            source=source[0],
            peer_cseq=core.cseq,
        )
        called, caller = unescape(uri.user), core.from_.user()
        return dialog, Invitation(
            *(core.call_id, request.uri, called, caller, core.from_.plain(), source, transport.name, codecs)
        )

    async def _place(self, dialog: Dialog, context: ResponseContext, core: Core, invitation: Invitation) -> None:
        """Find a line for an INVITE and send it there; whatever goes wrong ends this call alone."""
        try:
            line = await self._admit(invitation)
            self._workers[line.sip_address] = None
            self._workers.move_to_end(line.sip_address)
            if len(self._workers) > MAX_WORKERS:
                self._workers.popitem(last=False)
            self._dialogs.invite(dialog, context, core, line)
        except Refused as refused:
            self._log_refusal(core.call_id, invitation.source, refused.status)
            context.refuse(_answer(context.server.request, refused))
        except Exception:  # a fault in one call's admission must not end the others
            log.exception("sip admission failed", sip_call_id=core.call_id)
            context.refuse(context.own_response(500))

    # -- from workers --

    def _on_worker_message(self, message: Message, source: Address, transport: Transport) -> None:
        if self._closed or source not in self._workers:
            return
        try:
            core = Core.read(message)
        except SipParseError as error:
            log.warning("sip worker message dropped", source=source, error=str(error))
            return
        if isinstance(message, Response):
            self._table.receive(message, core, source, transport)
            return
        reply = Outlet(transport, source)
        key = ("worker", str(source[1]), *server_key(core, message.uri, source))
        transaction = self._table.servers.get(key)
        try:
            if message.method == "CANCEL":
                self._on_cancel(key)
            elif transaction is not None and message.method == "ACK" and transaction.state is not State.ACCEPTED:
                transaction.acknowledge()
            elif transaction is not None and message.method != "ACK":
                transaction.repeat()
            else:
                self._of_worker(message, core, key, reply)
        except Rejection as rejection:
            self._reply(message, rejection, reply)

    def _of_worker(self, request: Request, core: Core, key: ServerKey, reply: Outlet) -> None:
        dialog = self._dialogs.of_worker(core, reply.address)
        if request.method == "ACK":
            if dialog is not None:
                self._dialogs.acknowledge_peer(dialog, request)
            return
        if dialog is None:
            raise Rejection(481)
        check_method(request.method, in_dialog=True)
        transaction = serve(key, request, reply, self._table)
        try:
            self._dialogs.forward_to_peer(dialog, transaction, core, self._settings.ring_timeout_s)
        except Rejection as rejection:
            transaction.respond(rejection.answer(request, ""))

    # -- answers --

    def _reply(self, request: Request, rejection: Rejection, outlet: Outlet) -> None:
        """Answer without state: the same request gets the same tag again (RFC 3261 section 8.2.7)."""
        if request.method == "ACK":
            return
        fields = "\0".join(request.headers.get(name) or "" for name in ("Via", "From", "Call-ID", "CSeq"))
        tag = hashlib.blake2b(fields.encode(), key=self._secret, digest_size=8).hexdigest()
        response = rejection.answer(request, tag)
        response.headers.add("Server", SERVER)
        outlet.send(response)

    def _busy(self, reason: str) -> Rejection:
        return Rejection(503, reason, Retry_After=str(self._settings.retry_after_s))

    @staticmethod
    def _abilities() -> dict[str, str]:
        return {"Allow": ", ".join(ALLOWED), "Accept": "application/sdp", "Supported": ", ".join(EXTENSIONS)}

    def _own_load(self) -> Load:
        return Load(self.active_calls, self._settings.max_calls)

    def _on_dialog_end(self, dialog: Dialog) -> None:
        self._admission.end(dialog.source)

    def _log_refusal(self, call_id: str, source: Address, status: int) -> None:
        if status >= 300 and self._may_log.take(source[0], _now()):
            log.info("sip request refused", sip_call_id=call_id, source=source[0], status=status)


def _answer(request: Request, refusal: Rejection | Refused) -> Response:
    if isinstance(refusal, Refused):
        fields = {} if refusal.retry_after_s is None else {"Retry_After": str(refusal.retry_after_s)}
        refusal = Rejection(refusal.status, refusal.reason, **fields)
    return refusal.answer(request, secrets.token_hex(8))


def _reply_outlet(via: Via, source: Address, transport: Transport) -> Outlet:
    """Where responses go (RFC 3261 section 18.2.2): over the request's connection while that is open."""
    if transport.reliable:
        return Outlet(transport, source if transport.connected(source) else (source[0], via.port or 5060))
    return Outlet(transport, via.reply_address(source))


def _is_loopback(host: str) -> bool:
    return host == "127.0.0.1"


def _now() -> float:
    return asyncio.get_running_loop().time()
