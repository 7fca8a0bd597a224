"""One request on its way across the edge, with its two transactions (RFC 3261 section 16: the response context)."""

import secrets
from collections.abc import Callable
from enum import Enum

from telephony.sip.edge.client_transaction import ask, make_cancel
from telephony.sip.edge.transaction import ClientTransaction, Clock, Outlet, ServerTransaction, State, TransactionTable
from telephony.sip.message import Request, Response


class Outcome(Enum):
    """Who gave the final response."""

    ANSWERED = "answered"  # the side that was asked
    UNANSWERED = "unanswered"  # the edge itself, since that side did not


class ResponseContext:
    """Forwards a request, and its responses back; ends with exactly one call of ``on_final(status, outcome)``.

    ``translate`` writes a response of the side that was asked anew for the side that asked.
    """

    def __init__(
        self,
        server: ServerTransaction,
        table: TransactionTable,
        translate: Callable[[Response], Response],
        on_final: Callable[[int, Outcome], None],
    ) -> None:
        self.server = server
        self.over = False
        self._table = table
        self._translate = translate
        self._on_final = on_final
        self._client: ClientTransaction | None = None
        self._clock = Clock()
        self._timer_c_s: float | None = None
        self._provisional = False
        self._give_up_status: int | None = None
        self._tag = secrets.token_hex(8)
        server.on_cancel = self.cancel

    def start_timer_c(self, after_s: float) -> None:
        """Give the request up, with 408, when no final response came so long after the last provisional one."""
        self._timer_c_s = after_s
        self._clock.start("C", after_s, self.give_up, 408)

    def forward(self, request: Request, outlet: Outlet) -> None:
        """Send the request on."""
        self._client = ask(request, outlet, self, self._table)

    def cancel(self) -> None:
        """The side that asked sent CANCEL."""
        self.give_up(487)

    def give_up(self, status: int) -> None:
        """CANCEL an INVITE that is under way; the side that asked gets ``status`` unless an answer crosses."""
        if self.over or self._give_up_status is not None or self.server.request.method != "INVITE":
            return
        self._give_up_status = status
        self._clock.stop("C")
        if self._client is None:
            self.refuse(self.own_response(status))
        elif self._provisional:
            self._send_cancel(self._client)
        # else the CANCEL waits for the first provisional response (section 9.1), or timer B

    def own_response(self, status: int, reason: str | None = None) -> Response:
        """A final response of the edge itself, with a tag of its own."""
        return Response.to(self.server.request, status, reason, self._tag)

    def refuse(self, response: Response) -> None:
        """Answer in the place of the side that was asked, which is asked no more."""
        if self.over:
            return
        if self._client is not None:
            self._client.terminate()
        self.server.respond(response)
        self._finish(response.status, Outcome.UNANSWERED)

    def abandon(self) -> None:
        """Forget the request without an answer: the side that asked is gone. Idempotent; on_final is not called."""
        self.over = True
        self._clock.stop_all()
        self.server.terminate()
        if self._client is not None:
            self._client.terminate()

    def on_response(self, response: Response) -> None:
        """A response came from the side that was asked."""
        if response.status < 200:
            self._on_provisional(response)
            return
        if self.over:
            if response.status < 300:
                self.server.respond(self._translate(response))  # a 2xx repeated: the ACK is on its way or lost
            return
        if response.status == 487 and self._give_up_status not in (None, 487):
            response = Response(self._give_up_status or 487, "Request Timeout", response.headers)
        self.server.respond(self._translate(response))
        self._finish(response.status, Outcome.ANSWERED)

    def on_timeout(self) -> None:
        """The side that was asked is silent."""
        if not self.over:
            self.refuse(self.own_response(self._give_up_status or 408))

    def _on_provisional(self, response: Response) -> None:
        if self.over:
            return
        first, self._provisional = not self._provisional, True
        if self._give_up_status is not None:
            if first and self._client is not None:
                self._send_cancel(self._client)
            return
        if response.status == 100:
            return
        if self._timer_c_s is not None:
            self._clock.start("C", self._timer_c_s, self.give_up, 408)
        self.server.respond(self._translate(response))

    def _send_cancel(self, client: ClientTransaction) -> None:
        if client.state is State.PROCEEDING:
            ask(make_cancel(client.request), client.outlet, _Deaf(), self._table)
            self._clock.start("cancelled", self._table.timers.timeout_s, self.on_timeout)

    def _finish(self, status: int, outcome: Outcome) -> None:
        self.over = True
        self._clock.stop_all()
        self._on_final(status, outcome)


class _Deaf:
    """Cares for no answer: what a CANCEL gets back changes nothing (section 9.1)."""

    def on_response(self, response: Response) -> None:
        pass

    def on_timeout(self) -> None:
        pass
