"""What peers send to the edge: each message finds its transaction, its dialog, or an answer. Gateway's event loop.

Requests out of dialog other than INVITE are answered here, without state.
"""

import asyncio
from collections.abc import Callable

import structlog

from config.schema import SipRateLimit, SipSettings
from telephony.errors import SipParseError
from telephony.sip.edge.admission import Admission, Load, Refused, TokenBuckets
from telephony.sip.edge.answers import answer, reply, reply_outlet
from telephony.sip.edge.dialog import Dialog
from telephony.sip.edge.dialogs import Dialogs
from telephony.sip.edge.response_context import ResponseContext
from telephony.sip.edge.server_transaction import serve
from telephony.sip.edge.transaction import Outlet, ServerKey, State, TransactionTable, cancel, server_key
from telephony.sip.edge.transport import Address, Transport
from telephony.sip.edge.validation import (
    ALLOWED,
    EXTENSIONS,
    Rejection,
    check_accept,
    check_codecs,
    check_content,
    check_method,
    check_notify,
    check_path,
    check_uri,
)
from telephony.sip.fields import Core, Via, read_contact
from telephony.sip.invitation import Invitation
from telephony.sip.message import Message, Request, Response
from telephony.sip.uri import NameAddr, SipUri, unescape

log = structlog.get_logger()

OnInvite = Callable[[Dialog, ResponseContext, Core, Invitation], None]
"""Told of each INVITE that is admitted and waits for a line."""


class PeerSide:
    """The edge as peers see it; ``draining`` refuses new calls, ``load`` tells how full the gateway is."""

    def __init__(
        self,
        settings: SipSettings,
        admission: Admission,
        dialogs: Dialogs,
        load: Callable[[], Load],
        on_invite: OnInvite,
    ) -> None:
        self.draining = False
        self._settings = settings
        self._admission = admission
        self._dialogs = dialogs
        self._passage = dialogs.passage
        self._table: TransactionTable = dialogs.table
        self._load = load
        self._on_invite = on_invite
        self._may_log = TokenBuckets(SipRateLimit(per_s=0.2, burst=5))

    def receive(self, message: Message, source: Address, transport: Transport) -> None:
        """Take a message that came from a peer."""
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
        outlet = reply_outlet(core.via, source, transport)
        key = server_key(core, message.uri, source)
        transaction = self._table.servers.get(key)
        try:
            if message.method == "ACK":
                self._on_ack(message, core, key)
            elif message.method == "CANCEL":
                cancel(self._table, key)
            elif transaction is not None:
                transaction.repeat()
            elif self._table.full:
                log.warning("sip request dropped", error="too many transactions")
            elif core.to_tag:
                self._in_dialog(message, core, key, outlet, Outlet(transport, source))
            else:
                self._out_of_dialog(message, core, key, outlet, Outlet(transport, source))
        except Rejection as rejection:
            self._log_refusal(core.call_id, source, rejection.status)
            reply(message, rejection, outlet)

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
        reply(message, Rejection(error.status, reason), reply_outlet(via, source, transport))

    def _on_ack(self, request: Request, core: Core, key: ServerKey) -> None:
        transaction = self._table.servers.get(key)
        if transaction is not None and transaction.state is not State.ACCEPTED:
            transaction.acknowledge()
            return
        dialog = self._dialogs.of_peer(core)
        if dialog is not None:
            self._dialogs.acknowledge_worker(dialog, request, core)

    def _in_dialog(self, request: Request, core: Core, key: ServerKey, outlet: Outlet, peer: Outlet) -> None:
        check_method(request.method, in_dialog=True)
        dialog = self._dialogs.of_peer(core)
        if dialog is None:
            raise Rejection(481)
        check_path(request, core, self._passage.instance)
        check_content(request)
        if request.method == "NOTIFY":
            check_notify(request, dialog.referring)
        if request.method == "OPTIONS":
            raise Rejection(200, **self._abilities())
        dialog.peer = peer
        transaction = serve(key, request, outlet, self._table)
        try:
            self._dialogs.forward_to_worker(dialog, transaction, core, self._settings.ring_timeout_s)
        except Rejection as rejection:
            transaction.respond(answer(request, rejection))

    def _out_of_dialog(self, request: Request, core: Core, key: ServerKey, outlet: Outlet, peer: Outlet) -> None:
        if not self._admission.within_rate(peer.address[0], _now()):
            raise self._busy("Too Many Requests")
        if request.method != "INVITE":
            self._check(request, core)
            raise self._options()
        transaction = serve(key, request, outlet, self._table)
        try:
            dialog, invitation = self._read_invite(request, core, peer)
            if self.draining:
                raise self._busy("Shutting Down")
            self._admission.begin(peer.address[0])
        except (Rejection, Refused) as refusal:
            self._log_refusal(core.call_id, peer.address, refusal.status)
            transaction.respond(answer(request, refusal))
            return
        context = self._dialogs.begin(dialog, transaction, self._settings.ring_timeout_s)
        transaction.respond(Response.to(request, 100))
        self._on_invite(dialog, context, core, invitation)

    def _check(self, request: Request, core: Core) -> SipUri:
        check_method(request.method, in_dialog=False)
        uri = check_uri(request.uri)
        check_path(request, core, self._passage.instance)
        return uri

    def _options(self) -> Rejection:
        load = self._load()
        fields = {**self._abilities(), "X_Denwa_Load": f"calls={load.calls}; max={load.max_calls}"}
        if load.full or self.draining:
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

    def _busy(self, reason: str) -> Rejection:
        return Rejection(503, reason, Retry_After=str(self._settings.retry_after_s))

    @staticmethod
    def _abilities() -> dict[str, str]:
        return {"Allow": ", ".join(ALLOWED), "Accept": "application/sdp", "Supported": ", ".join(EXTENSIONS)}

    def _log_refusal(self, call_id: str, source: Address, status: int) -> None:
        if status >= 300 and self._may_log.take(source[0], _now()):
            log.info("sip request refused", sip_call_id=call_id, source=source[0], status=status)


def _now() -> float:
    return asyncio.get_running_loop().time()
