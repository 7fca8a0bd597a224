"""Parsing and writing SIP messages."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telephony.errors import SipParseError
from telephony.sip.fields import Core
from telephony.sip.message import Headers, Request, Response, canonical_name, parse_message
from tests.telephony.sip.edge.torture import BROKEN, VALID

_LINES = st.sampled_from(
    [
        b"INVITE sip:a@b SIP/2.0",
        b"SIP/2.0 200 OK",
        b"Via: SIP/2.0/UDP h;branch=z9hG4bKx",
        b"v: SIP / 2.0 / TCP [::1]:5060 , SIP/2.0/UDP b",
        b'f: "x\\"y" <sip:a@b>;tag=1',
        b"t: sip:c@d",
        b"i: id@h",
        b"CSeq: 1 INVITE",
        b"m: *",
        b"l: 3",
        b" folded",
        b"",
        b"\x00",
        b"Route: <sip:x;lr>, <sip:y",
        b"Max-Forwards: 99999999999999999999999",
    ]
)
_ALMOST_SIP = st.lists(_LINES | st.binary(max_size=20), max_size=20).map(b"\r\n".join)


@given(st.binary(max_size=400) | _ALMOST_SIP | _ALMOST_SIP.map(lambda data: data + b"\r\n\r\nbody"))
@example(b"\r\n\r\n")
@example(b"A sip:b SIP/2.0\r\n\r\n")
def test_any_bytes_parse_or_raise_the_parser_error(data: bytes) -> None:
    """Whatever comes over the wire, SipParseError is all that is raised; what parses is stable when written anew."""
    try:
        message = parse_message(data)
        written = message.serialise()
        again = parse_message(written)
        assert again.serialise() == written
        Core.read(message)
    except SipParseError:
        pass


@given(st.sampled_from([*VALID.values(), *BROKEN.values()]), st.data())
def test_mutated_messages_parse_or_raise_the_parser_error(message: bytes, data: st.DataObject) -> None:
    """Torture messages with a few bytes changed raise nothing but SipParseError."""
    mutable = bytearray(message)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(mutable) - 1))
        mutable[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        parsed = parse_message(bytes(mutable))
        Core.read(parsed)
        assert parse_message(parsed.serialise()).headers.all("Via") == parsed.headers.all("Via")
    except SipParseError:
        pass


@given(st.text(max_size=50), st.text(max_size=50))
def test_written_messages_hold_no_foreign_line_ends(value: str, reason: str) -> None:
    """Whatever text gets into a field, the message keeps its number of lines and no control character."""
    response = Response(200, reason)
    response.headers.add("Subject", value.encode("utf-8", "replace").decode())
    response.reason = reason.encode("utf-8", "replace").decode()
    lines = response.serialise().decode().split("\r\n")
    assert len(lines) == 5
    assert not any(ord(char) < 32 or ord(char) == 127 for line in lines for char in line)


def test_names_become_canonical() -> None:
    """Compact and oddly written names become the long ones."""
    names = {"v": "Via", "i": "Call-ID", "CALL-id": "Call-ID", "cseq": "CSeq", "x": "Session-Expires", "x-odd": "X-Odd"}
    assert {name: canonical_name(name) for name in names} == names


def test_lists_are_split_outside_quotes() -> None:
    """Via, Route, Record-Route and Contact hold one value each; commas in quotes and brackets do not split."""
    data = b'OPTIONS sip:a SIP/2.0\r\nm: "a, b" <sip:x?y=1,2>, <sip:z>\r\nSubject: one, two\r\n\r\n'
    headers = parse_message(data).headers
    assert headers.all("Contact") == ['"a, b" <sip:x?y=1,2>', "<sip:z>"]
    assert headers.all("Subject") == ["one, two"]


def test_body_is_cut_to_its_length() -> None:
    """Bytes of a datagram beyond Content-Length are dropped (RFC 3261 section 18.3)."""
    assert parse_message(b"OPTIONS sip:a SIP/2.0\r\nl: 2\r\n\r\nabcd").body == b"ab"


@pytest.mark.parametrize(
    "data",
    [
        b"OPTIONS sip:a SIP/2.0\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\nX: y\n\n",
        b"OPTIONS sip:a\x01 SIP/2.0\r\n\r\n",
        b"OPT(IONS sip:a SIP/2.0\r\n\r\n",
        b"SIP/2.0 099 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    """Too many fields, too many bytes, wrong line ends and malformed start lines are refused."""
    with pytest.raises(SipParseError):
        parse_message(data)


def test_response_takes_the_request_s_fields() -> None:
    """A response has the request's Via, From, To, Call-ID and CSeq; the tag only where To has none."""
    request = Request(
        "OPTIONS", "sip:a", Headers([("Via", "1"), ("Via", "2"), ("To", "<sip:a>"), ("CSeq", "1 OPTIONS")])
    )
    response = Response.to(request, 200, tag="t")
    assert list(response.headers) == [("Via", "1"), ("Via", "2"), ("To", "<sip:a>;tag=t"), ("CSeq", "1 OPTIONS")]
    request.headers.replace("To", ["<sip:a>;tag=mine"])
    assert Response.to(request, 200, tag="t").headers.get("To") == "<sip:a>;tag=mine"


def test_replacing_keeps_the_place() -> None:
    """Replaced fields stand where the first of them stood."""
    headers = Headers([("A", "1"), ("B", "2"), ("A", "3"), ("C", "4")])
    headers.replace("A", ["x", "y"])
    headers.replace("D", ["z"])
    assert list(headers) == [("A", "x"), ("A", "y"), ("B", "2"), ("C", "4"), ("D", "z")]
