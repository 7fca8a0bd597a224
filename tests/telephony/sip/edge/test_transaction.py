"""The transaction machines, on a transport that only keeps what is sent."""

import asyncio
from dataclasses import dataclass, field

import pytest

from telephony.sip.edge.client_transaction import ask
from telephony.sip.edge.server_transaction import serve
from telephony.sip.edge.transaction import Outlet, State, Timers, TransactionTable, server_key
from telephony.sip.fields import Core
from telephony.sip.message import Message, Request, Response, parse_message

TIMERS = Timers(t1_s=0.01, t2_s=0.04, t4_s=0.02)
PEER = ("127.0.0.1", 9)


@dataclass(eq=False)
class Wire:
    """A transport that keeps what is sent."""

    reliable: bool = False
    name: str = "udp"
    sent: list[Message] = field(default_factory=list)
    address: tuple[str, int] = ("127.0.0.1", 1)

    def send(self, data: bytes, address: tuple[str, int]) -> None:
        """Keep it."""
        self.sent.append(parse_message(data))

    def connected(self, address: tuple[str, int]) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing to close."""

    async def wait_closed(self) -> None:
        """Nothing to wait for."""

    def methods(self) -> list[str]:
        """Methods and statuses of what was sent."""
        return [m.method if isinstance(m, Request) else str(m.status) for m in self.sent]


@dataclass
class User:
    """Keeps what a client transaction reports."""

    statuses: list[int] = field(default_factory=list)
    timed_out: asyncio.Event = field(default_factory=asyncio.Event)

    def on_response(self, response: Response) -> None:
        """Keep its status."""
        self.statuses.append(response.status)

    def on_timeout(self) -> None:
        """Keep that."""
        self.timed_out.set()


def request(method: str, branch: str = "z9hG4bK1") -> Request:
    """A plain request."""
    message = Request(method, "sip:a@b")
    for name, value in (
        *(("Via", f"SIP/2.0/UDP h;branch={branch}"), ("Max-Forwards", "70"), ("From", "<sip:c@d>;tag=f")),
        *(("To", "<sip:a@b>"), ("Call-ID", "i"), ("CSeq", f"1 {method}")),
    ):
        message.headers.add(name, value)
    return message


async def until(table: TransactionTable) -> None:
    """Wait until no transaction is left."""
    async with asyncio.timeout(3):
        while table.servers or table.clients:
            await asyncio.sleep(0.005)


async def test_unreliable_requests_are_repeated_until_the_timeout() -> None:
    """INVITE is repeated at T1, 2*T1, 4*T1 and so on, six times in 64*T1; others at no more than T2 apart."""
    wire, table = Wire(), TransactionTable(TIMERS)
    user = User()
    ask(request("INVITE"), Outlet(wire, PEER), user, table)
    await asyncio.wait_for(user.timed_out.wait(), 3)
    assert 6 <= len(wire.sent) <= 7
    other, again = Wire(), User()
    ask(request("BYE"), Outlet(other, PEER), again, table)
    await asyncio.wait_for(again.timed_out.wait(), 3)
    assert len(other.sent) > len(wire.sent)
    assert table.clients == {}


async def test_reliable_requests_are_sent_once() -> None:
    """Over TCP nothing is repeated, and it times out all the same."""
    wire, table, user = Wire(reliable=True), TransactionTable(TIMERS), User()
    ask(request("INVITE"), Outlet(wire, PEER), user, table)
    await asyncio.wait_for(user.timed_out.wait(), 3)
    assert wire.methods() == ["INVITE"]


async def test_client_invite_refused() -> None:
    """Every copy of a refusal is acknowledged, one is reported."""
    wire, table, user = Wire(), TransactionTable(TIMERS), User()
    transaction = ask(invite := request("INVITE"), Outlet(wire, PEER), user, table)
    transaction.receive(Response.to(invite, 180, tag="t"))
    for _ in range(3):
        transaction.receive(Response.to(invite, 486, tag="t"))
    assert user.statuses == [180, 486]
    assert wire.methods() == ["INVITE", "ACK", "ACK", "ACK"]
    ack = wire.sent[-1]
    assert ack.headers.get("To") == "<sip:a@b>;tag=t"
    assert ack.headers.get("Via") == invite.headers.get("Via")
    assert ack.headers.get("CSeq") == "1 ACK"
    await until(table)


async def test_client_invite_accepted() -> None:
    """Every 2xx is reported while Accepted lasts (RFC 6026), none acknowledged here."""
    wire, table, user = Wire(), TransactionTable(TIMERS), User()
    transaction = ask(invite := request("INVITE"), Outlet(wire, PEER), user, table)
    for status in (200, 200, 486):
        transaction.receive(Response.to(invite, status, tag="t"))
    assert user.statuses == [200, 200]
    assert wire.methods() == ["INVITE"]
    assert transaction.state is State.ACCEPTED
    await until(table)


async def test_client_of_other_requests() -> None:
    """A final response is reported once; retransmissions of it are absorbed."""
    wire, table, user = Wire(), TransactionTable(TIMERS), User()
    transaction = ask(bye := request("BYE"), Outlet(wire, PEER), user, table)
    for status in (100, 200, 200):
        transaction.receive(Response.to(bye, status))
    assert user.statuses == [100, 200]
    await until(table)


async def test_server_invite_refused() -> None:
    """A refusal is repeated until the ACK; a repeated INVITE gets it again."""
    wire, table = Wire(), TransactionTable(TIMERS)
    invite = request("INVITE")
    transaction = serve(("k",), invite, Outlet(wire, PEER), table)
    transaction.respond(Response.to(invite, 100))
    transaction.repeat()
    transaction.respond(Response.to(invite, 486))
    transaction.repeat()
    async with asyncio.timeout(2):
        while len(wire.sent) < 6:
            await asyncio.sleep(0.005)
    transaction.acknowledge()
    count = len(wire.sent)
    transaction.respond(Response.to(invite, 200))
    assert transaction.state is State.CONFIRMED
    await until(table)
    assert len(wire.sent) == count
    assert wire.methods()[:4] == ["100", "100", "486", "486"]


async def test_server_invite_refused_without_ack() -> None:
    """Without an ACK the transaction ends after 64*T1."""
    wire, table = Wire(), TransactionTable(TIMERS)
    invite = request("INVITE")
    serve(("k",), invite, Outlet(wire, PEER), table).respond(Response.to(invite, 486))
    await until(table)
    assert len(wire.sent) > 5


async def test_server_invite_accepted() -> None:
    """A 2xx is sent as often as it is given; a repeated INVITE is absorbed."""
    wire, table = Wire(), TransactionTable(TIMERS)
    invite = request("INVITE")
    transaction = serve(("k",), invite, Outlet(wire, PEER), table)
    transaction.respond(Response.to(invite, 200))
    transaction.repeat()
    transaction.respond(Response.to(invite, 200))
    transaction.respond(Response.to(invite, 486))
    assert wire.methods() == ["200", "200"]
    await until(table)


async def test_server_of_other_requests() -> None:
    """The final response is repeated for each copy of the request, and no other follows it."""
    wire, table = Wire(), TransactionTable(TIMERS)
    bye = request("BYE")
    transaction = serve(("k",), bye, Outlet(wire, PEER), table)
    transaction.repeat()
    transaction.respond(Response.to(bye, 200))
    transaction.respond(Response.to(bye, 500))
    transaction.repeat()
    assert wire.methods() == ["200", "200"]
    await until(table)


@pytest.mark.parametrize("branch", ["z9hG4bKabc", "z9hG4bK", "old-style"])
def test_ack_and_cancel_find_their_invite(branch: str) -> None:
    """ACK and CANCEL have the INVITE's key, with RFC 3261 branches and without; other requests do not."""
    keys = {
        method: server_key(Core.read(message), message.uri, PEER)
        for method in ("INVITE", "ACK", "CANCEL", "BYE")
        if (message := request(method, branch))
    }
    assert keys["INVITE"] == keys["ACK"] == keys["CANCEL"] != keys["BYE"]


async def test_stray_responses_are_dropped() -> None:
    """A response finds its transaction only by branch and method, and only from the side that was asked."""
    wire, table, user = Wire(), TransactionTable(TIMERS), User()
    transaction = ask(bye := request("BYE"), Outlet(wire, PEER), user, table)
    answer = Response.to(bye, 200)
    table.receive(answer, Core.read(answer), PEER, Wire(name="internal"))
    stray = Response.to(request("BYE", "z9hG4bKother"), 200)
    table.receive(stray, Core.read(stray), PEER)
    assert user.statuses == []
    table.receive(answer, Core.read(answer), PEER)
    assert user.statuses == [200]
    transaction.terminate()
