"""Requests that the edge answers itself."""

import pytest

from telephony.sip.message import Response
from tests.telephony.sip.edge.edge_rig import invited_via, rig
from tests.telephony.sip.edge.sip_ends import OFFER, Caller, Stream, Worker


async def test_cancel_of_nothing() -> None:
    """CANCEL of an unknown transaction gets 481."""
    async with rig() as r:
        r.peer.send(Caller(r.peer).request("CANCEL"), r.udp)
        await r.peer.response(481, "CANCEL")


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
        ("NOTIFY", 481),
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
