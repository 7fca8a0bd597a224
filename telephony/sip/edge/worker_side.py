"""What line workers send to the edge, over its socket on loopback. Gateway's event loop."""

from collections import OrderedDict
from typing import Final

import structlog

from telephony.errors import SipParseError
from telephony.sip.edge.answers import answer, reply
from telephony.sip.edge.dialogs import Dialogs
from telephony.sip.edge.server_transaction import serve
from telephony.sip.edge.transaction import Outlet, ServerKey, State, TransactionTable, cancel, server_key
from telephony.sip.edge.transport import Address, Transport
from telephony.sip.edge.validation import WORKER_ALLOWED, Rejection, check_method
from telephony.sip.fields import Core
from telephony.sip.message import Message, Request, Response

log = structlog.get_logger()

MAX_WORKERS: Final = 4_096


class WorkerSide:
    """The edge as line workers see it."""

    def __init__(self, dialogs: Dialogs, timer_c_s: float) -> None:
        self._dialogs = dialogs
        self._table: TransactionTable = dialogs.table
        self._timer_c_s = timer_c_s
        self._workers: OrderedDict[Address, None] = OrderedDict()

    def know(self, worker: Address) -> None:
        """Hear this worker from now on; the one unheard of for longest is forgotten when there are too many."""
        self._workers[worker] = None
        self._workers.move_to_end(worker)
        if len(self._workers) > MAX_WORKERS:
            self._workers.popitem(last=False)

    def receive(self, message: Message, source: Address, transport: Transport) -> None:
        """Take a message from the internal socket; only workers that hold a line are heard."""
        if source not in self._workers:
            return
        try:
            core = Core.read(message)
        except SipParseError as error:
            log.warning("sip worker message dropped", source=source, error=str(error))
            return
        if isinstance(message, Response):
            self._table.receive(message, core, source, transport)
            return
        outlet = Outlet(transport, source)
        key = ("worker", str(source[1]), *server_key(core, message.uri, source))
        transaction = self._table.servers.get(key)
        try:
            if message.method == "CANCEL":
                cancel(self._table, key)
            elif transaction is not None and message.method == "ACK" and transaction.state is not State.ACCEPTED:
                transaction.acknowledge()
            elif transaction is not None and message.method != "ACK":
                transaction.repeat()
            else:
                self._request(message, core, key, outlet)
        except Rejection as rejection:
            reply(message, rejection, outlet)

    def _request(self, request: Request, core: Core, key: ServerKey, outlet: Outlet) -> None:
        dialog = self._dialogs.of_worker(core, outlet.address)
        if request.method == "ACK":
            if dialog is not None:
                self._dialogs.acknowledge_peer(dialog, request)
            return
        if dialog is None:
            raise Rejection(481)
        check_method(request.method, in_dialog=True, allowed=WORKER_ALLOWED)
        transaction = serve(key, request, outlet, self._table)
        try:
            self._dialogs.forward_to_peer(dialog, transaction, core, self._timer_c_s)
        except Rejection as rejection:
            transaction.respond(answer(request, rejection))
