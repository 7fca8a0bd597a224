"""What may happen to a call, played by SIPp."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.peers.denwa import Denwa, denwa
from tests.peers.sipp import sipp

pytestmark = [pytest.mark.peer("sipp"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Denwa]:
    """One gateway for all scenarios: whatever one leaves behind, the next meets."""
    async with denwa(tmp_path_factory.mktemp("scenarios")) as running:
        yield running


async def _ended(gateway: Denwa, before: int) -> dict[str, object]:
    """The log line of the end of the one call that has been since ``before`` calls had ended."""
    return (await gateway.wait_log("call.ended", before + 1))[before]


def _count(gateway: Denwa, event: str) -> int:
    return sum(line.get("event") == event for line in gateway.log())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_the_caller_hangs_up(gateway: Denwa, transport: str) -> None:
    """An answered call ends with the caller's BYE."""
    before = _count(gateway, "call.ended")
    await sipp("caller_bye", gateway.sip_port, transport=transport)
    assert (await _ended(gateway, before))["reason"] == "caller hung up"


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_denwa_hangs_up(gateway: Denwa, transport: str) -> None:
    """An agent with a limit ends the call with BYE when its time is up."""
    before = _count(gateway, "call.ended")
    await sipp("callee_bye", gateway.sip_port, called="limited", transport=transport)
    assert (await _ended(gateway, before))["result"] == "completed"


async def test_the_caller_gives_up_while_it_rings(gateway: Denwa) -> None:
    """CANCEL is answered with 200 and the INVITE with 487 (RFC 3261 section 9.2)."""
    before = _count(gateway, "call.ended")
    await sipp("cancel", gateway.sip_port, called="ringing")
    assert (await _ended(gateway, before))["result"] == "cancelled"


async def test_bye_overtakes_the_ack(gateway: Denwa) -> None:
    """A BYE that comes before the ACK ends the call, and the late ACK harms nothing."""
    before = _count(gateway, "call.ended")
    await sipp("early_bye", gateway.sip_port)
    await _ended(gateway, before)


async def test_no_line_or_slot_is_kept(gateway: Denwa) -> None:
    """After calls that ended in every way, everything is free again."""
    await gateway.wait_health(within_s=10, calls=0)
    health = await gateway.health()
    assert health["free_slots"]["echo"] == 64
    assert health["free_lines"] >= 12


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param("delayed_offer", id="an INVITE without SDP gets an offer in the 200"),
        pytest.param("reinvite_codec", id="a re-INVITE changes the codec"),
        pytest.param("hold", id="sendonly is answered with recvonly, and sendrecv comes back"),
    ],
)
async def test_sessions_are_negotiated(gateway: Denwa, scenario: str) -> None:
    """Offers and answers go both ways (RFC 3264)."""
    await sipp(scenario, gateway.sip_port)


@pytest.mark.parametrize(
    ("scenario", "called"),
    [
        pytest.param("options", "echo", id="OPTIONS 200"),
        pytest.param("unknown_method", "echo", id="unknown method 501"),
        pytest.param("register", "echo", id="REGISTER 405"),
        pytest.param("no_common_codec", "echo", id="no common codec 488"),
        pytest.param("unsupported_require", "echo", id="unsupported Require 420"),
        pytest.param("stray_bye", "echo", id="BYE out of dialog 481"),
        pytest.param("no_route", "nobody", id="no such number 404"),
    ],
)
async def test_requests_get_their_answer(gateway: Denwa, scenario: str, called: str) -> None:
    """What is no call gets the status RFC 3261 gives it, and starts nothing."""
    before = _count(gateway, "call.started")
    await sipp(scenario, gateway.sip_port, called=called)
    assert _count(gateway, "call.started") == before


async def test_a_repeated_invite_is_one_call(gateway: Denwa) -> None:
    """An INVITE that comes twice is absorbed (RFC 3261 section 17.2.1)."""
    before = _count(gateway, "call.started")
    await sipp("repeated_invite", gateway.sip_port, called="slow")
    await _ended(gateway, before)
    assert _count(gateway, "call.started") == before + 1


async def test_a_200_is_repeated_until_its_ack(gateway: Denwa) -> None:
    """While the ACK is lost the 200 comes again (RFC 3261 section 13.3.1.4)."""
    result = await sipp("lost_ack", gateway.sip_port)
    answers = re.findall(r"SIP/2\.0 200[^\n]*\n(?:.+\n)*?CSeq: 1 INVITE", result.messages.replace("\r", ""))
    assert len(answers) >= 3, result.messages
