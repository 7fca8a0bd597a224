"""Server transactions: they absorb what comes twice and repeat what got lost (RFC 3261 section 17.2, RFC 6026)."""

from collections.abc import Callable
from typing import Final

from telephony.sip.edge.transaction import Clock, Outlet, ServerKey, ServerTransaction, State, TransactionTable
from telephony.sip.message import Request, Response

_INVITE_NEXT: Final = {
    State.PROCEEDING: {State.ACCEPTED, State.COMPLETED, State.TERMINATED},
    State.ACCEPTED: {State.TERMINATED},
    State.COMPLETED: {State.CONFIRMED, State.TERMINATED},
    State.CONFIRMED: {State.TERMINATED},
    State.TERMINATED: set[State](),
}
_OTHER_NEXT: Final = {
    State.TRYING: {State.PROCEEDING, State.COMPLETED, State.TERMINATED},
    State.PROCEEDING: {State.COMPLETED, State.TERMINATED},
    State.COMPLETED: {State.TERMINATED},
    State.TERMINATED: set[State](),
}


class InviteServerTransaction:
    """The server's side of an INVITE (RFC 6026 figure 2)."""

    def __init__(self, key: ServerKey, request: Request, outlet: Outlet, table: TransactionTable) -> None:
        self.request = request
        self.state = State.PROCEEDING
        self.on_cancel: Callable[[], None] | None = None
        self._key = key
        self._outlet = outlet
        self._table = table
        self._clock = Clock()
        self._last: Response | None = None
        table.add_server(key, self)

    def respond(self, response: Response) -> None:
        """Send a response; after a final one only further 2xx to a 2xx pass."""
        timers = self._table.timers
        if self.state is State.ACCEPTED and 200 <= response.status < 300:
            self._outlet.send(response)
        if self.state is not State.PROCEEDING:
            return
        self._last = response
        self._outlet.send(response)
        if response.status < 200:
            return
        if response.status < 300:
            self._become(State.ACCEPTED)
            self._clock.start("L", timers.timeout_s, self.terminate)
            return
        self._become(State.COMPLETED)
        self._clock.start("H", timers.timeout_s, self.terminate)
        if not self._outlet.transport.reliable:
            self._clock.start("G", timers.t1_s, self._resend, timers.t1_s)

    def repeat(self) -> None:
        """Repeat the last response; a 2xx is repeated by whoever sent it."""
        if self._last is not None and self.state in (State.PROCEEDING, State.COMPLETED):
            self._outlet.send(self._last)

    def acknowledge(self) -> None:
        """Stop repeating; further ACKs are absorbed for T4."""
        if self.state is not State.COMPLETED:
            return
        self._clock.stop_all()
        self._become(State.CONFIRMED)
        self._clock.start("I", 0 if self._outlet.transport.reliable else self._table.timers.t4_s, self.terminate)

    def terminate(self) -> None:
        """End at once."""
        self._clock.stop_all()
        if self.state is not State.TERMINATED:
            self._become(State.TERMINATED)
            self._table.servers.pop(self._key, None)
            self.on_cancel = None

    def _resend(self, interval_s: float) -> None:
        if self._last is not None:
            self._outlet.send(self._last)
        interval_s = min(2 * interval_s, self._table.timers.t2_s)
        self._clock.start("G", interval_s, self._resend, interval_s)

    def _become(self, state: State) -> None:
        assert state in _INVITE_NEXT[self.state], f"{self.state} -> {state}"
        self.state = state


class NonInviteServerTransaction:
    """The server's side of any other request (figure 8)."""

    def __init__(self, key: ServerKey, request: Request, outlet: Outlet, table: TransactionTable) -> None:
        self.request = request
        self.state = State.TRYING
        self.on_cancel: Callable[[], None] | None = None
        self._key = key
        self._outlet = outlet
        self._table = table
        self._clock = Clock()
        self._last: Response | None = None
        table.add_server(key, self)

    def respond(self, response: Response) -> None:
        """Send a response; after a final one nothing more passes."""
        if self.state not in (State.TRYING, State.PROCEEDING):
            return
        self._last = response
        self._outlet.send(response)
        if response.status >= 200:
            self._become(State.COMPLETED)
            after_s = 0 if self._outlet.transport.reliable else self._table.timers.timeout_s
            self._clock.start("J", after_s, self.terminate)
        elif self.state is State.TRYING:
            self._become(State.PROCEEDING)

    def repeat(self) -> None:
        """Repeat the last response, if there is one."""
        if self._last is not None:
            self._outlet.send(self._last)

    def acknowledge(self) -> None:
        """Only an INVITE is acknowledged."""

    def terminate(self) -> None:
        """End at once."""
        self._clock.stop_all()
        if self.state is not State.TERMINATED:
            self._become(State.TERMINATED)
            self._table.servers.pop(self._key, None)

    def _become(self, state: State) -> None:
        assert state in _OTHER_NEXT[self.state], f"{self.state} -> {state}"
        self.state = state


def serve(key: ServerKey, request: Request, outlet: Outlet, table: TransactionTable) -> ServerTransaction:
    """Begin the server transaction of a request."""
    if request.method == "INVITE":
        return InviteServerTransaction(key, request, outlet, table)
    return NonInviteServerTransaction(key, request, outlet, table)
