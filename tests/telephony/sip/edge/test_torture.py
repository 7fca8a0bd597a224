"""RFC 4475: a correct answer or a silent drop, never a crash; and a good call placed afterwards works."""

import pytest

from telephony.errors import SipParseError
from telephony.sip.fields import Core
from telephony.sip.message import Request, parse_message
from tests.telephony.sip.edge.edge_rig import rig
from tests.telephony.sip.edge.sip_ends import Caller, Stream
from tests.telephony.sip.edge.torture import BADBRANCH, BROKEN, RESPONSES, VALID

CALL = 0  # goes to a worker
SILENCE = -1

ANSWERS = {
    **{"wsinv": 481, "intmeth": 501, "esc01": CALL, "escnull": 405, "esc02": 501, "lwsdisp": 200, "longreq": CALL},
    **{"dblreq": 405, "semiuri": 200, "transports": 200, "mpart01": 405, "regbadct": 405, "baddate": 200, "trws": 200},
    **{"baddn": 400, "unksm2": 405, "invut": 415, "regaut01": 405, "zeromf": 200, "cparam01": 405, "cparam02": 405},
    **{"regescrt": 405, "sdp01": 406, "inv2543": CALL, "bext01": 420},
    **{"badinv01": SILENCE, "badinv01-contact": 400, "clerr": 400, "ncl": 400, "scalar02": 400, "quotbal": 400},
    **{"ltgtruri": 400, "lwsruri": 400, "lwsstart": 400, "escruri": 400, "badaspec": 400, "badvers": 505},
    **{"mismatch01": 400, "mismatch02": 400, "insuf": 400, "unkscm": 416, "novelsc": 416, "multi01": 400, "mcl01": 400},
    **{"no-colon": SILENCE, "not-utf-8": SILENCE, "fold-first": SILENCE},
    **dict.fromkeys(RESPONSES, SILENCE),
    "badbranch": 200,
}
MESSAGES = {**VALID, **BROKEN, **RESPONSES, "badbranch": BADBRANCH}


@pytest.mark.parametrize("name", MESSAGES)
async def test_torture_over_udp(name: str) -> None:
    """Each message gets the answer RFC 4475 leaves room for, and leaves the edge well."""
    async with rig() as r:
        r.peer.send(MESSAGES[name], r.udp)
        expected = ANSWERS[name]
        if expected == SILENCE:
            assert await r.peer.silent(0.05)
        elif expected == CALL:
            invited = await r.worker.expect("INVITE")
            r.worker.respond(invited, 486)
            await r.worker.expect("ACK")
            await r.peer.response(486)
            await r.gone()
        else:
            answer = await r.peer.response(expected)
            assert answer.headers.get("Via") is not None
        assert (expected == CALL) == bool(r.invitations)
        good = Caller(r.peer, "good@test")
        good.end.send(invite := good.request("INVITE"), r.udp)
        while (request := await r.worker.receive()).headers.get("Call-ID") != good.call_id:
            pass
        assert isinstance(request, Request)
        r.worker.respond(request, 200, r.worker.answer_body())
        while (message := await r.peer.receive()).headers.get("Call-ID") != invite.headers.get("Call-ID") or (
            not isinstance(message, Request) and message.status == 100
        ):
            pass
        assert not isinstance(message, Request)
        assert message.status == 200


@pytest.mark.parametrize("name", MESSAGES)
async def test_torture_over_tcp(name: str) -> None:
    """On a stream each message is answered, dropped, or ends its own connection; the next connection works."""
    async with rig() as r:
        bad = await Stream.connect(r.tcp)
        bad.send(MESSAGES[name])
        good = await Stream.connect(r.tcp)
        good.send(Caller(good, "good", tcp=True).request("OPTIONS"))
        await good.response(200)
        bad.close()
        good.close()


@pytest.mark.parametrize("name", VALID)
def test_valid_messages_are_stable_when_written_anew(name: str) -> None:
    """What was parsed and written anew parses to the same again."""
    once = parse_message(VALID[name])
    once.headers.replace("Content-Length", [str(len(once.body))])
    again = parse_message(once.serialise())
    assert again.headers.all("Via") == once.headers.all("Via")
    assert again.body == once.body
    assert again.serialise() == once.serialise()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_messages_raise_only_the_parser_error(name: str) -> None:
    """What is wrong is told by SipParseError with the status of an answer, or left to the checks of a request."""
    caught = None
    try:
        Core.read(parse_message(BROKEN[name]))
    except SipParseError as error:
        caught = error
    assert caught is None or 400 <= caught.status < 600
