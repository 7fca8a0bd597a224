"""A dialog as the edge knows it: a peer on one side, a line worker on the other (RFC 3261 section 12)."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import structlog

from telephony.sip.edge.admission import Line
from telephony.sip.edge.transaction import Outlet
from telephony.sip.edge.transport import Address
from telephony.sip.uri import NameAddr

log = structlog.get_logger()


class DialogState(Enum):
    """Where a dialog stands."""

    EARLY = "early"
    CONFIRMED = "confirmed"
    ENDED = "ended"


_NEXT: Final = {
    DialogState.EARLY: {DialogState.CONFIRMED, DialogState.ENDED},
    DialogState.CONFIRMED: {DialogState.ENDED},
    DialogState.ENDED: set[DialogState](),
}


@dataclass(slots=True, eq=False)
class Dialog:
    """One call's dialog; the edge presents one side to the other, so each side sees the edge alone."""

    call_id: str
    remote: NameAddr  # the peer: From of the INVITE, with its tag
    local: NameAddr  # To of the INVITE; has the worker's tag once that is known
    remote_target: str  # the peer's Contact
    route_set: tuple[str, ...]  # Record-Route of the INVITE, in order
    peer: Outlet  # where the peer's last request came from
    contact: str  # the edge's URI as this peer sees it
    record_route: str
    source: str  # the host that called, which the limits count
    peer_cseq: int
    worker_cseq: int = 0
    line: Line | None = None
    worker_target: str | None = None  # the worker's Contact
    referring: bool = False  # the worker sent a REFER that was not refused: NOTIFYs may come
    state: DialogState = field(default=DialogState.EARLY)

    @property
    def peer_tag(self) -> str:
        """The peer's tag."""
        return self.remote.tag

    @property
    def worker_tag(self) -> str:
        """The worker's tag, "" until it gave one."""
        return self.local.tag

    @property
    def worker(self) -> Address | None:
        """The worker's address, None until a line is found."""
        return None if self.line is None else self.line.sip_address

    def learn_worker(self, tag: str, target: str | None) -> None:
        """Take the worker's tag and Contact from its response; the first tag stays, the newest Contact counts."""
        if tag and not self.worker_tag:
            self.local = self.local.with_tag(tag)
        if target is not None:
            self.worker_target = target

    def become(self, state: DialogState) -> None:
        """Move to a state, where that is a step ahead."""
        if state is self.state:
            return
        assert state in _NEXT[self.state], f"{self.state} -> {state}"
        log.debug("sip dialog", sip_call_id=self.call_id, change=f"{self.state.value} -> {state.value}")
        self.state = state
