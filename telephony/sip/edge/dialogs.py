"""The dialogs of the edge, and what crosses it inside them (RFC 3261 sections 12 and 16). Gateway's event loop.

The edge is a proxy that record-routes and shows each side only itself; requests of a dialog find its worker here, and
its peer. When a worker is lost, the edge speaks for it.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from telephony.errors import RemoteError, SipParseError
from telephony.sip.edge.admission import Line
from telephony.sip.edge.client_transaction import ask
from telephony.sip.edge.dialog import Dialog, DialogState
from telephony.sip.edge.passage import CONTACT_METHODS, Passage, target_of
from telephony.sip.edge.resolve import resolve
from telephony.sip.edge.response_context import Outcome, ResponseContext
from telephony.sip.edge.transaction import Outlet, ServerTransaction, TransactionTable
from telephony.sip.edge.transport import Address, Transport
from telephony.sip.edge.validation import Rejection
from telephony.sip.fields import Core
from telephony.sip.message import Request, Response
from telephony.sip.uri import NameAddr, SipUri

log = structlog.get_logger()

MAX_WORKER_BYTES: Final = 3_800
"""PJSIP reads no datagram beyond PJSIP_MAX_PKT_LEN, 4,000 bytes."""


class Dialogs:
    """Every dialog by its Call-ID, of which a peer may use each once at a time; ``on_end`` is called once for each."""

    def __init__(
        self,
        passage: Passage,
        table: TransactionTable,
        internal: Transport,
        listeners: list[Transport],
        on_end: Callable[[Dialog], None],
    ) -> None:
        self.passage = passage
        self.table = table
        self._internal = internal
        self._listeners = listeners
        self._on_end = on_end
        self._dialogs: dict[str, Dialog] = {}
        self._contexts: dict[Dialog, dict[ResponseContext, bool]] = {}  # True: the peer asked

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._dialogs

    def __len__(self) -> int:
        return len(self._dialogs)

    def of_peer(self, core: Core) -> Dialog | None:
        """The dialog a peer's request belongs to."""
        dialog = self._dialogs.get(core.call_id)
        if dialog is None or not dialog.worker_tag:
            return None
        return dialog if (core.from_tag, core.to_tag) == (dialog.peer_tag, dialog.worker_tag) else None

    def of_worker(self, core: Core, source: Address) -> Dialog | None:
        """The dialog a worker's request belongs to."""
        dialog = self._dialogs.get(core.call_id)
        if dialog is None or dialog.worker != source:
            return None
        return dialog if (core.from_tag, core.to_tag) == (dialog.worker_tag, dialog.peer_tag) else None

    def begin(self, dialog: Dialog, server: ServerTransaction, timer_c_s: float) -> ResponseContext:
        """Begin a dialog with the INVITE that asks for it; the context waits for ``invite``."""
        self._dialogs[dialog.call_id] = dialog
        translate = partial(self._from_worker, dialog, server.request)
        context = ResponseContext(server, self.table, translate, partial(self._on_invited, dialog))
        self._contexts[dialog] = {context: True}
        context.start_timer_c(timer_c_s)
        return context

    def invite(self, dialog: Dialog, context: ResponseContext, core: Core, line: Line) -> None:
        """Send a dialog's INVITE to the worker of its line."""
        if context.over:
            line.release()
            return
        dialog.line = line
        request = self.passage.request_to_worker(context.server.request, core, dialog)
        if len(request.serialise()) > MAX_WORKER_BYTES:
            context.refuse(context.own_response(513))
            return
        context.forward(request, Outlet(self._internal, line.sip_address))

    def forward_to_worker(self, dialog: Dialog, server: ServerTransaction, core: Core, timer_c_s: float) -> None:
        """Forward a peer's request inside a dialog. Raises Rejection where the edge must answer itself."""
        request = server.request
        if dialog.state is DialogState.ENDED or dialog.worker is None:
            raise Rejection(200 if request.method == "BYE" else 481)
        if core.cseq < dialog.peer_cseq:
            raise Rejection(500, "CSeq Out Of Order")
        out = self.passage.request_to_worker(request, core, dialog)
        if len(out.serialise()) > MAX_WORKER_BYTES:
            raise Rejection(513)
        dialog.peer_cseq = core.cseq
        self._refresh_target(dialog, request)
        translate = partial(self._from_worker, dialog, request)
        self._open(dialog, server, translate, timer_c_s, from_peer=True).forward(
            out, Outlet(self._internal, dialog.worker)
        )

    def forward_to_peer(self, dialog: Dialog, server: ServerTransaction, core: Core, timer_c_s: float) -> None:
        """Forward a worker's request inside a dialog. Raises Rejection where the edge must answer itself."""
        if dialog.state is DialogState.ENDED:
            raise Rejection(481)
        dialog.worker_cseq = max(dialog.worker_cseq, core.cseq)
        if server.request.method in CONTACT_METHODS:
            dialog.learn_worker("", target_of(server.request.headers))
        dialog.referring |= server.request.method == "REFER"
        outlet = self._next_hop(dialog)
        out = self.passage.request_to_peer(server.request, dialog, outlet)
        translate = partial(self._from_peer, dialog, server.request)
        self._open(dialog, server, translate, timer_c_s, from_peer=False).forward(out, outlet)

    def acknowledge_worker(self, dialog: Dialog, request: Request, core: Core) -> None:
        """Forward a peer's ACK for a 2xx."""
        if dialog.state is not DialogState.ENDED and dialog.worker is not None and core.max_forwards > 0:
            out = self.passage.request_to_worker(request, core, dialog)
            Outlet(self._internal, dialog.worker).send(out)

    def acknowledge_peer(self, dialog: Dialog, request: Request) -> None:
        """Forward a worker's ACK for a 2xx."""
        outlet = self._next_hop(dialog)
        outlet.send(self.passage.request_to_peer(request, dialog, outlet))

    def end(self, call_id: str, reason: str) -> None:
        """End a call whose worker is lost: a BYE to the peer, or 503 to its INVITE. Unknown ones are left alone."""
        dialog = self._dialogs.get(call_id)
        if dialog is None or dialog.state is DialogState.ENDED:
            return
        log.info("sip call ended by the edge", sip_call_id=call_id, reason=reason)
        confirmed = dialog.state is DialogState.CONFIRMED
        self._close(dialog)
        said_bye = False
        for context, from_peer in list(self._contexts.get(dialog, {}).items()):
            method = context.server.request.method
            said_bye |= method == "BYE"
            if from_peer:
                context.refuse(context.own_response({"BYE": 200, "INVITE": 503}.get(method, 481)))
            elif method != "BYE":
                context.abandon()
        if confirmed and not said_bye:
            self._say_bye(dialog)
        else:
            self._remove(dialog)

    def close(self) -> None:
        """Forget every dialog."""
        for contexts in list(self._contexts.values()):
            for context in list(contexts):
                context.abandon()
        for dialog in list(self._dialogs.values()):
            self._remove(dialog)

    def _open(
        self,
        dialog: Dialog,
        server: ServerTransaction,
        translate: Callable[[Response], Response],
        timer_c_s: float,
        *,
        from_peer: bool,
    ) -> ResponseContext:
        method = server.request.method

        def on_final(status: int, outcome: Outcome) -> None:
            self._contexts.get(dialog, {}).pop(context, None)
            if method == "BYE":
                self._remove(dialog)
            elif method == "REFER" and status >= 300:
                dialog.referring = False

        context = ResponseContext(server, self.table, translate, on_final)
        if method == "INVITE":
            context.start_timer_c(timer_c_s)
        self._contexts.setdefault(dialog, {})[context] = from_peer
        return context

    def _on_invited(self, dialog: Dialog, status: int, outcome: Outcome) -> None:
        """The INVITE that asked for a dialog has its final response."""
        for context in [c for c in self._contexts.get(dialog, {}) if c.over]:
            del self._contexts[dialog][context]
        if (status >= 300 or outcome is Outcome.UNANSWERED) and dialog.line is not None:
            dialog.line.release()
        if status >= 300:
            self._remove(dialog)
        elif dialog.state is DialogState.EARLY:
            dialog.become(DialogState.CONFIRMED)

    def _from_worker(self, dialog: Dialog, request: Request, response: Response) -> Response:
        target = target_of(response.headers) if request.method in CONTACT_METHODS and response.status < 300 else None
        dialog.learn_worker(_to_tag(response), target)
        return self.passage.response_to_peer(response, request, dialog)

    def _from_peer(self, dialog: Dialog, request: Request, response: Response) -> Response:
        if request.method in CONTACT_METHODS and 200 <= response.status < 300:
            dialog.remote_target = target_of(response.headers) or dialog.remote_target
        return self.passage.response_to_worker(response, request)

    def _refresh_target(self, dialog: Dialog, request: Request) -> None:
        if request.method in CONTACT_METHODS:
            dialog.remote_target = target_of(request.headers) or dialog.remote_target

    def _next_hop(self, dialog: Dialog) -> Outlet:
        """Where requests to a peer go: down its open connection, else where its route set or Contact leads.

        A name that cannot be resolved, a transport we do not listen on, or an address of our own leads back to where
        the peer was last heard.
        """
        peer = dialog.peer
        if peer.transport.connected(peer.address):
            return peer
        try:
            uri = NameAddr.parse(dialog.route_set[0]).uri if dialog.route_set else dialog.remote_target
            hop = resolve(SipUri.parse(uri))
        except RemoteError as error:
            log.debug("sip next hop", sip_call_id=dialog.call_id, error=str(error))
            return peer
        own = {self._internal.address, dialog.worker, *(each.address for each in self._listeners)}
        for each in (peer.transport, *self._listeners):
            same_family = (":" in each.address[0]) == (":" in hop.address[0])
            if each.name == hop.transport and same_family and hop.address not in own:
                return Outlet(each, hop.address)
        return peer

    def _say_bye(self, dialog: Dialog) -> None:
        outlet = self._next_hop(dialog)
        request = self.passage.new_request("BYE", str(dialog.worker_cseq + 1), dialog, outlet)
        ask(request, outlet, _Farewell(partial(self._remove, dialog)), self.table)

    def _close(self, dialog: Dialog) -> None:
        if dialog.state is not DialogState.ENDED:
            dialog.become(DialogState.ENDED)
            self._on_end(dialog)

    def _remove(self, dialog: Dialog) -> None:
        self._close(dialog)
        self._contexts.pop(dialog, None)
        if self._dialogs.get(dialog.call_id) is dialog:
            del self._dialogs[dialog.call_id]


class _Farewell:
    """Waits for a BYE of the edge to be answered, or not."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done

    def on_response(self, response: Response) -> None:
        if response.status >= 200:
            self._done()

    def on_timeout(self) -> None:
        self._done()


def _to_tag(response: Response) -> str:
    try:
        return NameAddr.parse(response.headers.get("To") or "").tag
    except SipParseError:
        return ""
