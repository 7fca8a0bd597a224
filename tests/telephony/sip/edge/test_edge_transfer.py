"""Transfers and redirections across the edge (RFC 3515, RFC 6665, RFC 3261 section 21.3.3)."""

import pytest

from telephony.sip.edge.admission import Refused
from telephony.sip.invitation import Invitation
from telephony.sip.message import Request, Response
from tests.telephony.sip.edge.edge_rig import Rig, invited_via, rig
from tests.telephony.sip.edge.sip_ends import OFFER, Caller

TARGET = "sip:+4930123;ext=7@198.51.100.9:5070;transport=tcp"
FRAG = "message/sipfrag;version=2.0"


async def _refer(r: Rig, invited: Request, status: int = 202) -> Request:
    """Send a REFER from the worker and answer it; returns it as it came to the peer."""
    host, port = r.worker.address
    own = f"<sip:denwa@{host}:{port}>"
    refer = r.worker.request(invited, "REFER", Refer_To=f"<{TARGET}>", Referred_By=own, Event="refer", Expires="600")
    r.worker.send(refer, invited_via(invited))
    got = await r.peer.expect("REFER")
    answer = Response.to(got, status)
    answer.headers.add("Contact", f"<sip:alice@127.0.0.1:{r.peer.address[1]}>")
    answer.headers.add("Expires", "0")
    answer.headers.add("Refer-Sub", "false")
    r.peer.send(answer, r.peer.last_source)
    told = await r.worker.response(status, "REFER")
    assert told.headers.get("Expires") is None
    assert told.headers.get("Refer-Sub") is None
    return got


def _notify(caller: Caller, body: bytes, **fields: str) -> Request:
    given = {"Event": "refer", "Subscription_State": "active;expires=0", "Content_Type": FRAG, **fields}
    return caller.request("NOTIFY", body, **given)


async def test_a_transfer_passes() -> None:
    """REFER reaches the peer as asked and shows the edge alone; its NOTIFYs reach the worker, reduced to a status."""
    async with rig(external_address="198.51.100.7") as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        refer = await _refer(r, invited)
        assert refer.headers.get("Refer-To") == f"<{TARGET}>"
        assert refer.headers.get("Referred-By") is None
        assert refer.headers.get("Contact") == f"<sip:1000@198.51.100.7:{r.udp[1]}>"
        text = r.peer.raw[-1].decode().replace(f"127.0.0.1:{r.peer.address[1]}", "").replace("1000@127.0.0.1", "")
        assert "127.0.0.1" not in text
        for body, state, told in (
            (b"SIP/2.0 100 Trying", "active;expires=0", b"SIP/2.0 100 Trying\r\n"),
            (
                b"SIP/2.0 180 L\xc3\xa4utet\r\nVia: SIP/2.0/UDP 10.0.0.1\r\n\r\n",
                "Active ; expires=60",
                b"SIP/2.0 180 L??utet\r\n",
            ),
            (b"SIP/2.0 200 OK\r\n", "terminated;reason=noresource", b"SIP/2.0 200 OK\r\n"),
        ):
            r.peer.send(_notify(caller, body, Subscription_State=state, Event="refer;id=7001"), r.udp)
            notify = await r.worker.expect("NOTIFY")
            assert notify.body == told
            assert notify.headers.get("Event") == "refer;id=7001"
            assert (notify.headers.get("Subscription-State") or "").lower() in ("active", "terminated")
            r.worker.respond(notify, 200)
            await r.peer.response(200, "NOTIFY")
        r.worker.send(r.worker.request(invited, "BYE"), invited_via(invited))
        bye = await r.peer.expect("BYE")
        r.peer.send(Response.to(bye, 200), r.peer.last_source)
        await r.gone()
        r.peer.send(_notify(caller, b"SIP/2.0 200 OK\r\n"), r.udp)
        await r.peer.response(481, "NOTIFY")


async def test_a_notify_without_a_refer_goes_no_further() -> None:
    """Neither in a dialog that sent none, nor after one that was refused, is a NOTIFY let through."""
    async with rig() as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        r.peer.send(_notify(caller, b"SIP/2.0 200 OK\r\n"), r.udp)
        await r.peer.response(481, "NOTIFY")
        await _refer(r, invited, 603)
        r.peer.send(_notify(caller, b"SIP/2.0 200 OK\r\n"), r.udp)
        await r.peer.response(481, "NOTIFY")
        assert await r.worker.silent()


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (489, {"Event": "presence"}, b"SIP/2.0 200 OK"),
        (489, {"Event": "referee"}, b"SIP/2.0 200 OK"),
        (400, {"Subscription_State": "odd"}, b"SIP/2.0 200 OK"),
        (400, {}, b""),
        (400, {}, b"HTTP/1.1 200 OK"),
        (400, {}, b"SIP/2.0 2000 OK"),
        (415, {"Content_Type": "application/sdp"}, OFFER),
    ],
)
async def test_notifies_that_go_no_further(status: int, fields: dict[str, str], body: bytes) -> None:
    """What tells nothing of the transfer is refused by the edge."""
    async with rig() as r:
        caller = Caller(r.peer)
        await _refer(r, await r.answer(caller))
        r.peer.send(_notify(caller, body, **fields), r.udp)
        answer = await r.peer.response(status, "NOTIFY")
        assert (answer.headers.get("Allow-Events") == "refer") == (status == 489)
        assert await r.worker.silent()


async def test_a_peer_transfers_nobody() -> None:
    """A REFER of the peer is refused at the edge, and so is a NOTIFY of a worker."""
    async with rig() as r:
        caller = Caller(r.peer)
        invited = await r.answer(caller)
        r.peer.send(caller.request("REFER", Refer_To="<sip:victim@192.0.2.1>"), r.udp)
        await r.peer.response(405, "REFER")
        r.worker.send(r.worker.request(invited, "NOTIFY", Event="refer"), invited_via(invited))
        await r.worker.response(405, "NOTIFY")
        assert await r.worker.silent()
        assert await r.peer.silent()


async def test_a_redirection_passes() -> None:
    """A 302 of the worker carries the Contact that the gateway gave, and never the worker's own."""
    async with rig() as r:
        _, invited = await r.ring(Caller(r.peer))
        r.worker.respond(invited, 302, Contact=f"<{TARGET}>")
        answer = await r.peer.response(302)
        assert answer.headers.all("Contact") == [f"<{TARGET}>"]
        await r.gone()


async def test_a_redirection_at_admission() -> None:
    """The gateway may redirect a call for which it has no line."""

    async def admit(invitation: Invitation) -> None:
        raise Refused(302, "Moved Temporarily", contact=TARGET)

    async with rig(admit) as r:
        caller = Caller(r.peer)
        r.peer.send(caller.request("INVITE", OFFER), r.udp)
        answer = await r.peer.response(302)
        assert answer.headers.all("Contact") == [f"<{TARGET}>"]
        await r.gone()


@pytest.mark.parametrize("contact", ["tel:110", "sip:a@b?Replaces=x", "sip:a b@c", "<sip:a@b>", "sip:a@b\r\nX: y"])
def test_what_is_no_sip_uri_is_told_to_nobody(contact: str) -> None:
    """A fault in the configuration must not reach a peer's header."""
    with pytest.raises(ValueError, match=r"URI|target"):
        Refused(302, "Moved Temporarily", contact=contact)
