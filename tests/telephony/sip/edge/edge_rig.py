"""The edge on real sockets, between a scripted peer and a scripted line worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from config.schema import SipSettings
from telephony.sip.edge.admission import Load
from telephony.sip.edge.edge import Edge
from telephony.sip.edge.transaction import Timers
from telephony.sip.invitation import Invitation
from telephony.sip.message import Request
from tests.telephony.sip.edge.sip_ends import OFFER, Caller, Datagrams, Worker

FAST = Timers(t1_s=0.02, t2_s=0.08, t4_s=0.1)


@dataclass
class Rig:
    """An edge with one peer and one worker, and what was asked of it."""

    edge: Edge
    peer: Datagrams
    worker: Worker
    invitations: list[Invitation]

    @property
    def udp(self) -> tuple[str, int]:
        """Where the edge listens for UDP."""
        return next((each.host, each.port) for each in self.edge.addresses if each.transport == "udp")

    @property
    def tcp(self) -> tuple[str, int]:
        """Where the edge listens for TCP."""
        return next((each.host, each.port) for each in self.edge.addresses if each.transport == "tcp")

    async def ring(self, caller: Caller, **fields: str) -> tuple[Request, Request]:
        """Place a call as far as the worker; returns the INVITE as sent and as it came."""
        invite = caller.request("INVITE", OFFER, **fields)
        caller.end.send(invite, self.udp)
        return invite, await self.worker.expect("INVITE")

    async def answer(self, caller: Caller, **fields: str) -> Request:
        """Place a call, answer it and acknowledge; returns the INVITE as the worker got it."""
        _, invited = await self.ring(caller, **fields)
        self.worker.respond(invited, 200, self.worker.answer_body())
        caller.confirm(await caller.end.response(200, "INVITE"))
        caller.end.send(caller.request("ACK"), self.udp)
        await self.worker.expect("ACK")
        return invited

    async def gone(self) -> None:
        """Wait until no call is left."""
        async with asyncio.timeout(3):
            while self.edge.active_calls or len(self.edge._dialogs):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def rig(
    admit: Callable[[Invitation], Awaitable[Any]] | None = None,
    load: Callable[[], Load] | None = None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """An open edge on loopback, between a peer and a worker."""
    invitations: list[Invitation] = []
    peer, worker = Datagrams(), Worker()

    async def to_worker(invitation: Invitation) -> Worker:
        invitations.append(invitation)
        if admit is not None:
            await admit(invitation)
        return worker

    chosen = SipSettings(**{"listen": ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"], **settings})
    try:
        async with Edge(chosen, to_worker, load, timers=FAST) as edge:
            yield Rig(edge, peer, worker, invitations)
    finally:
        peer.close()
        worker.close()


def invited_via(invited: Request) -> tuple[str, int]:
    """The edge's address facing the workers, from an INVITE's Via."""
    host, port = (invited.headers.get("Via") or "").split()[1].split(";")[0].split(":")
    return host, int(port)
