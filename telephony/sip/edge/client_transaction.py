"""Client transactions: they repeat a request until it is answered (RFC 3261 section 17.1, RFC 6026)."""

from typing import Final

from telephony.sip.edge.transaction import ClientTransaction, Clock, Outlet, State, TransactionTable, TransactionUser
from telephony.sip.fields import Via, parse_cseq
from telephony.sip.message import Request, Response

_INVITE_NEXT: Final = {
    State.CALLING: {State.PROCEEDING, State.ACCEPTED, State.COMPLETED, State.TERMINATED},
    State.PROCEEDING: {State.ACCEPTED, State.COMPLETED, State.TERMINATED},
    State.ACCEPTED: {State.TERMINATED},
    State.COMPLETED: {State.TERMINATED},
    State.TERMINATED: set[State](),
}
_OTHER_NEXT: Final = {
    State.TRYING: {State.PROCEEDING, State.COMPLETED, State.TERMINATED},
    State.PROCEEDING: {State.COMPLETED, State.TERMINATED},
    State.COMPLETED: {State.TERMINATED},
    State.TERMINATED: set[State](),
}


class InviteClientTransaction:
    """The client's side of an INVITE (RFC 6026 figure 1)."""

    def __init__(self, request: Request, outlet: Outlet, user: TransactionUser, table: TransactionTable) -> None:
        self.request = request
        self.outlet = outlet
        self.state = State.CALLING
        self._user = user
        self._table = table
        self._clock = Clock()
        self._key = (Via.parse(request.headers.all("Via")[0]).branch, "INVITE")
        table.add_client(self._key, self)
        self._clock.start("B", table.timers.timeout_s, self._expire)
        self._send(table.timers.t1_s)

    def receive(self, response: Response) -> None:
        """Move on with a response; anything but a 2xx is acknowledged here."""
        if self.state in (State.CALLING, State.PROCEEDING):
            self._clock.stop_all()
            if response.status < 200:
                if self.state is State.CALLING:
                    self._become(State.PROCEEDING)
            elif response.status < 300:
                self._become(State.ACCEPTED)
                self._clock.start("M", self._table.timers.timeout_s, self.terminate)
            else:
                self._become(State.COMPLETED)
                self.outlet.send(make_ack(self.request, response))
                after_s = 0 if self.outlet.transport.reliable else self._table.timers.timeout_s
                self._clock.start("D", after_s, self.terminate)
            self._user.on_response(response)
        elif self.state is State.ACCEPTED and 200 <= response.status < 300:
            self._user.on_response(response)
        elif self.state is State.COMPLETED and response.status >= 300:
            self.outlet.send(make_ack(self.request, response))

    def terminate(self) -> None:
        """End at once."""
        self._clock.stop_all()
        if self.state is not State.TERMINATED:
            self._become(State.TERMINATED)
            self._table.clients.pop(self._key, None)

    def _send(self, interval_s: float) -> None:
        self.outlet.send(self.request)
        if not self.outlet.transport.reliable:
            self._clock.start("A", interval_s, self._send, 2 * interval_s)

    def _expire(self) -> None:
        self.terminate()
        self._user.on_timeout()

    def _become(self, state: State) -> None:
        assert state in _INVITE_NEXT[self.state], f"{self.state} -> {state}"
        self.state = state


class NonInviteClientTransaction:
    """The client's side of any other request (figure 6)."""

    def __init__(self, request: Request, outlet: Outlet, user: TransactionUser, table: TransactionTable) -> None:
        self.request = request
        self.outlet = outlet
        self.state = State.TRYING
        self._user = user
        self._table = table
        self._clock = Clock()
        self._key = (Via.parse(request.headers.all("Via")[0]).branch, request.method)
        table.add_client(self._key, self)
        self._clock.start("F", table.timers.timeout_s, self._expire)
        self._send(table.timers.t1_s)

    def receive(self, response: Response) -> None:
        """Move on with a response."""
        if self.state not in (State.TRYING, State.PROCEEDING):
            return
        if response.status < 200:
            if self.state is State.TRYING:
                self._become(State.PROCEEDING)
        else:
            self._clock.stop_all()
            self._become(State.COMPLETED)
            after_s = 0 if self.outlet.transport.reliable else self._table.timers.t4_s
            self._clock.start("K", after_s, self.terminate)
        self._user.on_response(response)

    def terminate(self) -> None:
        """End at once."""
        self._clock.stop_all()
        if self.state is not State.TERMINATED:
            self._become(State.TERMINATED)
            self._table.clients.pop(self._key, None)

    def _send(self, interval_s: float) -> None:
        self.outlet.send(self.request)
        timers = self._table.timers
        if not self.outlet.transport.reliable:
            after_s = timers.t2_s if self.state is State.PROCEEDING else interval_s
            self._clock.start("E", after_s, self._send, min(2 * interval_s, timers.t2_s))

    def _expire(self) -> None:
        self.terminate()
        self._user.on_timeout()

    def _become(self, state: State) -> None:
        assert state in _OTHER_NEXT[self.state], f"{self.state} -> {state}"
        self.state = state


def ask(request: Request, outlet: Outlet, user: TransactionUser, table: TransactionTable) -> ClientTransaction:
    """Send a request, whose Via is in place, and begin its client transaction."""
    if request.method == "INVITE":
        return InviteClientTransaction(request, outlet, user, table)
    return NonInviteClientTransaction(request, outlet, user, table)


def make_ack(invite: Request, response: Response) -> Request:
    """The ACK for a final response that is no 2xx (section 17.1.1.3)."""
    ack = _same_hop(invite, "ACK")
    ack.headers.replace("To", response.headers.all("To")[:1])
    return ack


def make_cancel(invite: Request) -> Request:
    """The CANCEL of a pending INVITE (section 9.1)."""
    return _same_hop(invite, "CANCEL")


def _same_hop(invite: Request, method: str) -> Request:
    request = Request(method, invite.uri)
    headers = invite.headers
    request.headers.add("Via", headers.all("Via")[0])
    for name in ("Route", "Max-Forwards", "From", "To", "Call-ID"):
        for value in headers.all(name):
            request.headers.add(name, value)
    cseq, _ = parse_cseq(headers.get("CSeq") or "")
    request.headers.add("CSeq", f"{cseq} {method}")
    return request
