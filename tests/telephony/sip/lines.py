"""The edge and a pool of line workers, without agents: what every peer meets."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from config.schema import PortRange, SipSettings
from telephony.errors import NoFreeLine
from telephony.sip.edge.admission import Refused
from telephony.sip.edge.edge import Edge
from telephony.sip.invitation import Invitation
from telephony.sip.line.call import SipCall
from telephony.sip.line.line_worker import Line
from telephony.sip.line.pool import LinePool

RTP_PORTS = PortRange(first=28_000, last=29_999)


@dataclass
class Lines:
    """A running edge with its pool."""

    edge: Edge
    pool: LinePool
    calls: list[SipCall]

    @property
    def port(self) -> int:
        """Where the edge hears UDP."""
        return next(each.port for each in self.edge.addresses if each.transport == "udp")


@asynccontextmanager
async def lines(on_call: Callable[[SipCall], None]) -> AsyncIterator[Lines]:
    """Take calls on loopback and hand each to ``on_call``."""
    settings = SipSettings(listen=["udp:127.0.0.1:0"], max_calls=4, rtp_ports=RTP_PORTS, rtp_address="127.0.0.1")
    calls: list[SipCall] = []

    def arrive(call: SipCall) -> None:
        calls.append(call)
        on_call(call)

    async def admit(invitation: Invitation) -> Line:
        try:
            return await pool.place(invitation)
        except NoFreeLine as full:
            raise Refused(503, str(full)) from full

    pool = LinePool(settings, arrive, lambda lost: edge.end_calls(lost, "line worker lost"))
    edge = Edge(settings, admit)
    async with edge, pool:
        yield Lines(edge, pool, calls)
