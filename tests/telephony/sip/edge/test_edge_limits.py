"""Who the edge lets in, how it fills up, drains and closes."""

import asyncio
from ipaddress import IPv4Network

import pytest

from config.schema import SipRateLimit, SipSettings
from telephony.sip.edge.admission import Load, Refused
from telephony.sip.edge.edge import Edge
from telephony.sip.invitation import Invitation
from telephony.sip.message import Response
from tests.telephony.sip.edge.edge_rig import invited_via, rig
from tests.telephony.sip.edge.sip_ends import OFFER, Caller, Stream


async def test_limit_on_calls() -> None:
    """The call beyond the limit gets 503 with Retry-After; the running one is unharmed, and its end makes room."""
    async with rig(max_calls=1, retry_after_s=7) as r:
        first = Caller(r.peer)
        await r.answer(first)
        second = Caller(r.peer, "call-2@test")
        invite = second.request("INVITE", OFFER)
        r.peer.send(invite, r.udp)
        refusal = await r.peer.response(503)
        assert refusal.headers.get("Retry-After") == "7"
        r.peer.send(second.request("ACK", branch=second.branch_of(invite)), r.udp)
        r.peer.send(first.request("BYE"), r.udp)
        r.worker.respond(await r.worker.expect("BYE"), 200)
        await r.peer.response(200, "BYE")
        await r.answer(Caller(r.peer, "call-3@test"))


async def test_limit_per_source() -> None:
    """One source may have only so many calls at a time."""
    async with rig(max_calls_per_source=1) as r:
        await r.answer(Caller(r.peer))
        r.peer.send(Caller(r.peer, "call-2@test").request("INVITE", OFFER), r.udp)
        await r.peer.response(503)


async def test_rate_limit() -> None:
    """Requests beyond a source's rate get 503 with Retry-After; no worker hears of them."""
    async with rig(rate_limit=SipRateLimit(per_s=0.001, burst=2)) as r:
        for status in (200, 200, 503):
            r.peer.send(Caller(r.peer, f"{status}").request("OPTIONS"), r.udp)
            answer = await r.peer.response(status)
        assert answer.headers.get("Retry-After") == "5"
        r.peer.send(Caller(r.peer).request("INVITE", OFFER), r.udp)
        await r.peer.response(503)
        assert r.invitations == []


async def test_sources_not_allowed_hear_nothing() -> None:
    """A source outside the allow-list gets no answer by UDP and no connection by TCP."""
    async with rig(allow=[IPv4Network("192.0.2.0/24")]) as r:
        r.peer.send(Caller(r.peer).request("OPTIONS"), r.udp)
        assert await r.peer.silent()
        stream = await Stream.connect(r.tcp)
        with pytest.raises((ConnectionResetError, AssertionError)):
            await stream.receive()
        stream.close()


async def test_refusal_by_the_gateway() -> None:
    """What the gateway refuses is answered with its status, reason and Retry-After."""

    async def refuse(invitation: Invitation) -> None:
        raise Refused(503, "No Model Slot", 3)

    async with rig(refuse) as r:
        r.peer.send(Caller(r.peer).request("INVITE", OFFER), r.udp)
        answer = await r.peer.response(503)
        assert (answer.reason, answer.headers.get("Retry-After")) == ("No Model Slot", "3")
        await r.gone()


async def test_fault_in_admission_ends_that_call_alone() -> None:
    """An unexpected error while a call is admitted gets 500; the edge goes on."""

    async def fail(invitation: Invitation) -> None:
        raise ZeroDivisionError

    async with rig(fail) as r:
        r.peer.send(Caller(r.peer).request("INVITE", OFFER), r.udp)
        await r.peer.response(500)
        r.peer.send(Caller(r.peer, "b").request("OPTIONS"), r.udp)
        while (await r.peer.receive()).headers.get("CSeq") != "1 OPTIONS":
            pass
        await r.gone()


async def test_drain() -> None:
    """A draining edge refuses INVITE and OPTIONS with Retry-After and lets running calls go on."""
    async with rig() as r:
        caller = Caller(r.peer)
        await r.answer(caller)
        r.edge.drain()
        for method, body in (("OPTIONS", b""), ("INVITE", OFFER)):
            r.peer.send(Caller(r.peer, method).request(method, body), r.udp)
            assert (await r.peer.response(503, method)).headers.get("Retry-After") == "5"
        r.peer.send(caller.request("INFO"), r.udp)
        await r.worker.expect("INFO")


async def test_options_tells_the_load() -> None:
    """OPTIONS is answered by the edge with abilities and load, and with 503 when full."""
    loads = [Load(3, 12), Load(12, 12)]
    async with rig(load=lambda: loads.pop(0)) as r:
        r.peer.send(Caller(r.peer).request("OPTIONS"), r.udp)
        answer = await r.peer.response(200)
        assert answer.headers.get("X-Denwa-Load") == "calls=3; max=12"
        assert answer.headers.get("Accept") == "application/sdp"
        assert "INVITE" in (answer.headers.get("Allow") or "")
        r.peer.send(Caller(r.peer, "b").request("OPTIONS"), r.udp)
        assert (await r.peer.response(503)).headers.get("Retry-After") == "5"


async def test_nothing_stays_after_many_calls() -> None:
    """A hundred calls leave no dialog, no counted call and, once their timers ran, no transaction."""
    async with rig(max_calls=2, rate_limit=SipRateLimit(per_s=1e6, burst=1_000_000)) as r:
        for n in range(100):
            caller = Caller(r.peer, f"call-{n}")
            invited = await r.answer(caller)
            if n % 2:
                r.peer.send(caller.request("BYE"), r.udp)
                r.worker.respond(await r.worker.expect("BYE"), 200)
                await r.peer.response(200, "BYE")
            else:
                r.worker.send(r.worker.request(invited, "BYE"), invited_via(invited))
                r.peer.send(Response.to(await r.peer.expect("BYE"), 200), r.peer.last_source)
                await r.worker.response(200)
        await r.gone()
        async with asyncio.timeout(5):
            while r.edge._table.servers or r.edge._table.clients:
                await asyncio.sleep(0.02)
        assert r.edge._dialogs._contexts == {}
        assert r.edge._placing == set()


async def test_close_is_idempotent_and_final() -> None:
    """close() may come twice, and before the edge ever opened; a closed edge says nothing."""
    Edge(SipSettings(), None).close()  # type: ignore[arg-type]
    async with rig() as r:
        await r.answer(Caller(r.peer))
        r.edge.close()
        r.edge.close()
        r.peer.send(Caller(r.peer, "b").request("OPTIONS"), r.udp)
        assert await r.peer.silent()
