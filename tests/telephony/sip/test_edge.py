"""The edge on real sockets, between a scripted peer and a scripted line worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

import pytest

from config.schema import SipRateLimit, SipSettings
from telephony.sip.admission import Load, Refused
from telephony.sip.edge import Edge
from telephony.sip.invitation import Invitation
from telephony.sip.message import Request, Response
from telephony.sip.transaction import Timers
from tests.telephony.sip.sip_ends import OFFER, Caller, Datagrams, Stream, Worker

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


MakeRig = Callable[..., Any]


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


async def test_call_answered_and_ended_by_the_peer() -> None:
    """A call is answered, acknowledged and ended by the peer's BYE; nothing of it stays."""
    async with rig() as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        assert r.edge.active_calls == 1
        assert invited.headers.get("Call-ID") == caller.call_id
        assert invited.headers.get("Max-Forwards") == "69"
        assert invited.headers.all("Via") == [v for v in invited.headers.all("Via") if "dnw" in v]
        bye = caller.request("BYE")
        r.peer.send(bye, r.udp)
        got = await r.worker.expect("BYE")
        assert got.uri.startswith(f"sip:line@127.0.0.1:{r.worker.address[1]}")
        r.worker.respond(got, 200)
        await r.peer.response(200, "BYE")
        await r.gone()
        assert r.worker.released == 0


async def test_invitation_tells_who_calls_whom() -> None:
    """The invitation carries the parsed and unescaped facts of the INVITE."""
    async with rig() as r:
        invite = Caller(r.peer, called="%2B81%20x").request("INVITE", OFFER)
        r.peer.send(invite, r.udp)
        await r.worker.expect("INVITE")
        (invitation,) = r.invitations
        assert invitation.called == "+81 x"
        assert invitation.caller == "alice"
        assert invitation.caller_uri == f"sip:alice@127.0.0.1:{r.peer.address[1]}"
        assert invitation.source == r.peer.address
        assert invitation.transport == "udp"
        assert invitation.codecs == ("PCMA", "PCMU")


async def test_call_ended_by_the_worker() -> None:
    """A worker's BYE reaches the peer's Contact with the dialog's tags, and its answer comes back."""
    async with rig() as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        r.worker.send(r.worker.request(invited, "BYE"), invited_via(invited))
        bye = await r.peer.expect("BYE")
        assert bye.uri == f"sip:alice@127.0.0.1:{r.peer.address[1]}"
        assert bye.headers.get("CSeq") == "7001 BYE"
        assert "tag=peer-tag" in (bye.headers.get("To") or "")
        assert "tag=worker-tag" in (bye.headers.get("From") or "")
        r.peer.send(Response.to(bye, 200), r.peer.last_source)
        answer = await r.worker.response(200, "BYE")
        assert answer.headers.all("Via")[0].startswith(f"SIP/2.0/UDP 127.0.0.1:{r.worker.address[1]}")
        await r.gone()


def invited_via(invited: Request) -> tuple[str, int]:
    """The edge's address facing the workers, from an INVITE's Via."""
    host, port = (invited.headers.get("Via") or "").split()[1].split(";")[0].split(":")
    return host, int(port)


async def test_no_worker_address_reaches_the_peer() -> None:
    """Whatever a worker sends, its address and the internal socket's are in no byte that a peer gets."""
    async with rig(external_address="198.51.100.7") as r:
        caller = Caller(r.peer)
        _, invited = await r.ring(caller)
        internal = invited_via(invited)
        r.worker.respond(invited, 100)
        r.worker.respond(invited, 180)
        ringing = await r.peer.response(180)
        r.worker.respond(invited, 183, r.worker.answer_body())
        await r.peer.response(183)
        r.worker.respond(invited, 200, r.worker.answer_body(), Supported="100rel, replaces, timer")
        answer = await r.peer.response(200)
        caller.confirm(answer)
        r.peer.send(caller.request("ACK"), r.udp)
        await r.worker.expect("ACK")
        r.worker.send(r.worker.request(invited, "INVITE", r.worker.answer_body()), internal)
        again = await r.peer.expect("INVITE")
        r.peer.send(Response.to(again, 488), r.peer.last_source)
        await r.peer.expect("ACK")
        r.worker.send(r.worker.request(invited, "BYE"), internal)
        await r.peer.expect("BYE")
        assert ringing.headers.get("Contact") == answer.headers.get("Contact")
        assert b"c=IN IP4 198.51.100.7\r\n" in answer.body
        assert b"o=- 5 5 IN IP4 198.51.100.7\r\n" in answer.body
        assert answer.headers.get("Supported") == "100rel, timer"
        assert answer.headers.get("Allow") == "INVITE, ACK, BYE, CANCEL"
        for data in r.peer.raw:
            text = data.decode()
            for secret in (f":{r.worker.address[1]}", f":{internal[1]}", f" {r.worker.address[1]} ", "pjsip", "inner"):
                assert secret not in text, text
            own = text.replace(f"127.0.0.1:{r.peer.address[1]}", "").replace("1000@127.0.0.1", "")
            assert "127.0.0.1" not in own.replace("received=127.0.0.1", ""), text


async def test_worker_sees_nothing_of_the_peer_it_need_not() -> None:
    """A worker gets no Via, Contact, Route or unknown field of the peer."""
    async with rig() as r:
        _, invited = await r.ring(
            Caller(r.peer), Route="<sip:elsewhere.test;lr>", X_Odd="odd", Supported="path, 100rel", User_Agent="odd"
        )
        text = r.worker.raw[0].decode()
        assert "elsewhere" not in text
        assert "odd" not in text.lower()
        assert "A. Caller" not in text
        assert invited.headers.get("Supported") == "100rel"
        assert invited.headers.get("Contact") == f"<sip:peer@127.0.0.1:{invited_via(invited)[1]}>"
        assert invited.uri == f"sip:1000@127.0.0.1:{r.worker.address[1]}"


async def test_cancel_while_ringing() -> None:
    """CANCEL is answered and passed on hop by hop; the 487 comes back and its ACK stays at the edge."""
    async with rig() as r:
        caller = Caller(r.peer)
        invite, invited = await r.ring(caller)
        r.worker.respond(invited, 180)
        await r.peer.response(180)
        r.peer.send(caller.request("CANCEL", branch=caller.branch_of(invite)), r.udp)
        await r.peer.response(200, "CANCEL")
        cancel = await r.worker.expect("CANCEL")
        assert cancel.headers.get("Via") == invited.headers.get("Via")
        r.worker.respond(cancel, 200)
        r.worker.respond(invited, 487)
        await r.worker.expect("ACK")
        final = await r.peer.response(487, "INVITE")
        assert "tag=worker-tag" in (final.headers.get("To") or "")
        r.peer.send(caller.request("ACK", branch=caller.branch_of(invite)), r.udp)
        await r.gone()
        assert r.worker.released == 0
        assert await r.worker.silent()


async def test_cancel_before_a_line_is_found() -> None:
    """A CANCEL that comes while the call is being admitted ends it; the line that is found is given back."""
    found = asyncio.Event()

    async def slowly(invitation: Invitation) -> None:
        await found.wait()

    async with rig(slowly) as r:
        caller = Caller(r.peer)
        invite = caller.request("INVITE", OFFER)
        r.peer.send(invite, r.udp)
        await r.peer.response(100)
        r.peer.send(caller.request("CANCEL", branch=caller.branch_of(invite)), r.udp)
        await r.peer.response(200, "CANCEL")
        await r.peer.response(487, "INVITE")
        found.set()
        await r.gone()
        assert await r.worker.silent()
        assert r.worker.released == 1


async def test_cancel_before_the_worker_rings_waits_for_it() -> None:
    """No CANCEL goes to a worker that has not said anything yet (RFC 3261 section 9.1)."""
    async with rig() as r:
        caller = Caller(r.peer)
        invite, invited = await r.ring(caller)
        r.peer.send(caller.request("CANCEL", branch=caller.branch_of(invite)), r.udp)
        await r.peer.response(200, "CANCEL")
        r.worker.respond(invited, 180)
        while (request := await r.worker.receive()).method == "INVITE":  # repeated until the 180 was there
            pass
        assert request.method == "CANCEL"


async def test_cancel_of_nothing() -> None:
    """CANCEL of an unknown transaction gets 481."""
    async with rig() as r:
        r.peer.send(Caller(r.peer).request("CANCEL"), r.udp)
        await r.peer.response(481, "CANCEL")


async def test_retransmitted_invite_reaches_the_worker_once() -> None:
    """A repeated INVITE gets the last response again and does not reach the worker."""
    async with rig() as r:
        invite, invited = await r.ring(Caller(r.peer))
        r.worker.respond(invited, 180)
        await r.peer.response(180)
        r.peer.send(invite, r.udp)
        await r.peer.response(180)
        assert await r.worker.silent()


async def test_lost_ack_and_repeated_answer() -> None:
    """A 2xx the worker repeats reaches the peer again, and each ACK reaches the worker."""
    async with rig() as r:
        caller = Caller(r.peer)
        _, invited = await r.ring(caller)
        for _ in range(3):
            r.worker.respond(invited, 200, r.worker.answer_body())
            answer = await r.peer.response(200)
        caller.confirm(answer)
        for _ in range(2):
            r.peer.send(caller.request("ACK"), r.udp)
            await r.worker.expect("ACK")


async def test_rejection_by_the_worker_is_repeated_until_acknowledged() -> None:
    """A final response other than 2xx is repeated by the edge until its ACK, which stays there."""
    async with rig() as r:
        caller = Caller(r.peer)
        invite, invited = await r.ring(caller)
        r.worker.respond(invited, 486)
        await r.worker.expect("ACK")
        await r.peer.response(486)
        await r.peer.response(486)
        r.peer.send(caller.request("ACK", branch=caller.branch_of(invite)), r.udp)
        await r.gone()
        assert r.worker.released == 0


async def test_delayed_offer_passes() -> None:
    """An INVITE without SDP goes through; the offer comes in the 200, the answer in the ACK."""
    async with rig() as r:
        caller = Caller(r.peer)
        r.peer.send(caller.request("INVITE"), r.udp)
        invited = await r.worker.expect("INVITE")
        assert r.invitations[0].codecs == ()
        r.worker.respond(invited, 200, r.worker.answer_body())
        caller.confirm(await r.peer.response(200))
        r.peer.send(caller.request("ACK", OFFER), r.udp)
        assert b"m=audio 40000 RTP/AVP 8 0\r\n" in (await r.worker.expect("ACK")).body


async def test_reinvite_from_the_worker() -> None:
    """A worker's re-INVITE reaches the peer with the edge's Contact; 200 and ACK find their way."""
    async with rig() as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        internal = invited_via(invited)
        r.worker.send(r.worker.request(invited, "INVITE", r.worker.answer_body()), internal)
        again = await r.peer.expect("INVITE")
        assert str(r.udp[1]) in (again.headers.get("Contact") or "")
        answer = Response.to(again, 200)
        answer.headers.add("Contact", f"<sip:alice@127.0.0.1:{r.peer.address[1]}>")
        answer.headers.add("Content-Type", "application/sdp")
        answer.body = OFFER
        r.peer.send(answer, r.peer.last_source)
        got = await r.worker.response(200, "INVITE")
        assert got.body
        r.worker.send(r.worker.request(invited, "ACK"), internal)
        assert (await r.peer.expect("ACK")).headers.get("CSeq") == "7001 ACK"


async def test_reinvite_and_info_from_the_peer() -> None:
    """A peer's re-INVITE and INFO inside the dialog reach the worker."""
    async with rig() as r:
        caller = Caller(r.peer)
        await r.answer(caller)
        r.peer.send(caller.request("INVITE", OFFER.replace(b"sendrecv", b"sendonly")), r.udp)
        again = await r.worker.expect("INVITE")
        assert b"a=sendonly" in again.body
        r.worker.respond(again, 200, r.worker.answer_body())
        await r.peer.response(200, "INVITE")
        r.peer.send(caller.request("ACK"), r.udp)
        await r.worker.expect("ACK")
        r.peer.send(caller.request("INFO", b"Signal=5\r\n", Content_Type="application/dtmf-relay"), r.udp)
        info = await r.worker.expect("INFO")
        assert info.body == b"Signal=5\r\n"
        r.worker.respond(info, 200)
        await r.peer.response(200, "INFO")


async def test_upstream_proxies_stay_in_the_path() -> None:
    """Record-Route of proxies before the edge is kept: their peer sees it, and the worker's requests follow it."""
    async with rig() as r:
        proxy = Datagrams()
        caller = Caller(r.peer)
        route = f"<sip:127.0.0.1:{proxy.address[1]};lr>"
        r.peer.send(caller.request("INVITE", OFFER, Record_Route=route), r.udp)
        invited = await r.worker.expect("INVITE")
        assert invited.headers.get("Record-Route") is None
        r.worker.respond(invited, 200, r.worker.answer_body())
        answer = await r.peer.response(200)
        assert answer.headers.all("Record-Route") == [f"<sip:127.0.0.1:{r.udp[1]};lr>", route]
        r.worker.send(r.worker.request(invited, "BYE"), invited_via(invited))
        bye = await proxy.expect("BYE")
        assert bye.headers.all("Route") == [route]
        assert bye.uri == f"sip:alice@127.0.0.1:{r.peer.address[1]}"
        proxy.close()


async def test_in_dialog_requests_with_other_tags_or_senders_are_refused() -> None:
    """Only the right tags, and only the dialog's own worker, are heard inside a dialog."""
    async with rig() as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        stranger = Worker()
        stranger.send(stranger.request(invited, "BYE"), invited_via(invited))
        assert await stranger.silent()
        stranger.close()
        caller.to_tag = "other"
        r.peer.send(caller.request("BYE"), r.udp)
        await r.peer.response(481)
        assert r.edge.active_calls == 1


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


async def test_timer_c() -> None:
    """A call that only rings gets 408 after the ring timeout; the worker gets CANCEL."""
    async with rig(ring_timeout_s=0.15) as r:
        _, invited = await r.ring(Caller(r.peer))
        r.worker.respond(invited, 180)
        await r.peer.response(180)
        r.worker.respond(await r.worker.expect("CANCEL"), 200)
        r.worker.respond(invited, 487)
        await r.peer.response(408)
        await r.gone()


async def test_silent_worker() -> None:
    """A worker that answers nothing costs the peer a 408 after timer B, and its line is given back."""
    async with rig() as r:
        await r.ring(Caller(r.peer))
        await r.peer.response(408)
        await r.gone()
        assert r.worker.released == 1


async def test_bye_to_a_silent_side_frees_the_dialog() -> None:
    """A BYE that nobody answers ends the dialog all the same, from either side."""
    async with rig() as r:
        caller = Caller(r.peer)
        await r.answer(caller)
        r.peer.send(caller.request("BYE"), r.udp)
        await r.peer.response(408, "BYE")
        await r.gone()


async def test_edge_ends_the_calls_of_a_lost_worker() -> None:
    """end_calls sends a BYE with a higher CSeq than the worker used, repeats it, and forgets the call."""
    async with rig() as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        r.worker.send(r.worker.request(invited, "UPDATE"), invited_via(invited))
        update = await r.peer.expect("UPDATE")
        r.peer.send(Response.to(update, 200), r.peer.last_source)
        await r.worker.response(200)
        r.edge.end_calls([caller.call_id, "unknown"], "worker lost")
        assert r.edge.active_calls == 0
        bye = await r.peer.expect("BYE")
        assert bye.headers.get("CSeq") == "7002 BYE"
        assert "tag=peer-tag" in (bye.headers.get("To") or "")
        again = await r.peer.expect("BYE")
        assert again == bye
        r.peer.send(caller.request("BYE"), r.udp)
        while isinstance(message := await r.peer.receive(), Request):
            pass
        assert message.status == 200  # the peer's own BYE crosses
        r.peer.send(Response.to(bye, 200), r.peer.last_source)
        await r.gone()


async def test_edge_ends_a_ringing_call_of_a_lost_worker() -> None:
    """A call not answered yet gets 503 when its worker is lost."""
    async with rig() as r:
        caller = Caller(r.peer)
        _, invited = await r.ring(caller)
        r.worker.respond(invited, 180)
        await r.peer.response(180)
        r.edge.end_calls([caller.call_id], "worker lost")
        await r.peer.response(503)
        await r.gone()
        assert r.worker.released == 1


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


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("REGISTER", 405),
        ("MESSAGE", 405),
        ("SUBSCRIBE", 405),
        ("REFER", 405),
        ("FROBNICATE", 501),
        ("BYE", 481),
        ("PRACK", 481),
        ("INFO", 481),
        ("UPDATE", 481),
    ],
)
async def test_other_methods_out_of_dialog(method: str, status: int) -> None:
    """A request that begins no call gets the answer its method deserves."""
    async with rig() as r:
        r.peer.send(Caller(r.peer).request(method), r.udp)
        answer = await r.peer.response(status, method)
        assert (status in (405, 501)) == (answer.headers.get("Allow") is not None)


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (420, {"Require": "100rel, teleport"}, OFFER),
        (420, {"Proxy_Require": "anything"}, OFFER),
        (415, {"Content_Type": "text/plain"}, OFFER),
        (415, {"Content_Encoding": "gzip"}, OFFER),
        (400, {}, b"v=0\r\nrubbish"),
        (406, {"Accept": "text/plain"}, OFFER),
        (483, {"Max_Forwards": "0"}, OFFER),
        (488, {}, OFFER.replace(b" 8 0", b" 3").replace(b"PCM", b"XYZ")),
        (400, {"Contact": "<sip:a@b>, <sip:c@d>"}, OFFER),
        (400, {"Contact": "<mailto:a@b>"}, OFFER),
    ],
)
async def test_invites_that_go_no_further(status: int, fields: dict[str, str], body: bytes) -> None:
    """An INVITE the edge cannot pass on is answered there; a good call placed afterwards works."""
    async with rig() as r:
        bad = Caller(r.peer, "bad@test")
        invite = bad.request("INVITE", body, **fields)
        r.peer.send(invite, r.udp)
        answer = await r.peer.response(status)
        assert status != 420 or answer.headers.get("Unsupported") in ("teleport", "anything")
        r.peer.send(bad.request("ACK", branch=bad.branch_of(invite)), r.udp)
        assert r.invitations == []
        await r.answer(Caller(r.peer, "good@test"))


async def test_loops_and_merged_requests() -> None:
    """A request that went through this edge before, or came by another way too, gets 482."""
    async with rig() as r:
        caller = Caller(r.peer)
        _, invited = await r.ring(caller)
        caller.cseq -= 1
        r.peer.send(caller.request("INVITE", OFFER), r.udp)
        await r.peer.response(482)
        looped = Caller(r.peer, "loop").request("OPTIONS")
        looped.headers.add("Via", invited.headers.get("Via") or "")
        r.peer.send(looped, r.udp)
        while (message := await r.peer.receive()).headers.get("Call-ID") != "loop":
            pass
        assert isinstance(message, Response)
        assert message.status == 482


async def test_message_too_large_for_a_worker() -> None:
    """An INVITE beyond what PJSIP reads gets 513 and the line is given back."""
    async with rig() as r:
        r.peer.send(Caller(r.peer, called="x" * 4000).request("INVITE", OFFER), r.udp)
        await r.peer.response(513)
        await r.gone()
        assert r.worker.released == 1


async def test_call_over_tcp() -> None:
    """A call over TCP goes both ways on the peer's own connection, and URIs say transport=tcp."""
    async with rig() as r:
        stream = await Stream.connect(r.tcp)
        caller = Caller(stream, tcp=True)
        stream.send(b"\r\n\r\n")
        assert await stream.read() == b"\r\n"
        stream.send(caller.request("INVITE", OFFER))
        invited = await r.worker.expect("INVITE")
        r.worker.respond(invited, 200, r.worker.answer_body())
        answer = await stream.response(200)
        assert f"127.0.0.1:{r.tcp[1]};transport=tcp" in (answer.headers.get("Contact") or "")
        caller.confirm(answer)
        stream.send(caller.request("ACK"))
        await r.worker.expect("ACK")
        assert r.invitations[0].transport == "tcp"
        r.worker.send(r.worker.request(invited, "BYE"), invited_via(invited))
        bye = await stream.expect("BYE")
        assert (bye.headers.get("Via") or "").startswith("SIP/2.0/TCP")
        stream.send(Response.to(bye, 200))
        await r.worker.response(200)
        await r.gone()
        stream.close()


async def test_bad_stream_ends_that_connection_only() -> None:
    """Rubbish on one connection closes it; a call on another works."""
    async with rig() as r:
        bad, good = await Stream.connect(r.tcp), await Stream.connect(r.tcp)
        bad.send(b"INVITE sip:x SIP/2.0\r\nContent-Length: -5\r\n\r\n")
        assert await bad.read() == b""
        good.send(Caller(good, tcp=True).request("OPTIONS"))
        await good.response(200)
        bad.close()
        good.close()


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
