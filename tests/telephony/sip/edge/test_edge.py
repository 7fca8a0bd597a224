"""Calls across the edge."""

import asyncio
from ipaddress import IPv6Network

from telephony.sip.invitation import Invitation
from telephony.sip.message import Request, Response
from tests.telephony.sip.edge.edge_rig import invited_via, rig
from tests.telephony.sip.edge.sip_ends import OFFER, Caller, Datagrams, Stream


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
        assert answer.headers.get("Allow") == "INVITE, ACK, BYE, CANCEL, NOTIFY"
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
        assert r.worker.released == 1
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
        assert r.worker.released == 1


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


async def test_call_over_ipv6() -> None:
    """Over IPv6 the peer gets bracketed references and an IP6 session address."""
    async with rig(listen=["udp:[::1]:0"], allow=[IPv6Network("::1/128")]) as r:
        peer = Datagrams("::1")
        caller = Caller(peer)
        _, invited = await r.ring(caller)
        r.worker.respond(invited, 200, r.worker.answer_body())
        answer = await peer.response(200)
        assert (answer.headers.get("Contact") or "").startswith("<sip:1000@[::1]:")
        assert b"c=IN IP6 ::1\r\n" in answer.body
        caller.confirm(answer)
        peer.send(caller.request("ACK"), r.udp)
        await r.worker.expect("ACK")
        r.worker.send(r.worker.request(invited, "BYE"), invited_via(invited))
        bye = await peer.expect("BYE")
        peer.send(Response.to(bye, 200), peer.last_source[:2])
        await r.worker.response(200)
        peer.close()


async def test_worker_sees_a_call_under_a_wildcard_listener() -> None:
    """Listening on every address, the edge tells each peer the one that faces it."""
    async with rig(listen=["udp:0.0.0.0:0"]) as r:
        caller = Caller(r.peer)
        caller.end.send(caller.request("INVITE", OFFER), ("127.0.0.1", r.udp[1]))
        r.worker.respond(await r.worker.expect("INVITE"), 200, r.worker.answer_body())
        answer = await r.peer.response(200)
        assert answer.headers.get("Contact") == f"<sip:1000@127.0.0.1:{r.udp[1]}>"
        assert b"0.0.0.0" not in answer.body
