"""Cutting streams into messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.errors import SipParseError
from telephony.sip.stream import PING, StreamFramer

ONE = b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 3\r\n\r\nabc"
TWO = b"OPTIONS sip:b SIP/2.0\r\nl : 0\r\n\r\n"


@given(st.lists(st.sampled_from([ONE, TWO]), max_size=6), st.lists(st.integers(1, 40), max_size=40))
def test_messages_come_out_however_the_stream_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    """The same messages come out in order, whatever pieces the network makes."""
    stream = b"\r\n".join(messages)  # an odd CRLF between messages is no keep-alive
    framer, out, at = StreamFramer(), [], 0
    for cut in [*cuts, len(stream)]:
        out += framer.feed(stream[at : at + cut])
        at += cut
    assert [item for item in out if item != PING] == messages
    assert not framer.pending


def test_keep_alive_between_messages() -> None:
    """A double CRLF between messages comes out as PING."""
    assert StreamFramer().feed(ONE + PING + TWO + PING) == [ONE, PING, TWO, PING]


def test_keep_alive_in_pieces() -> None:
    """A double CRLF may come byte by byte."""
    framer = StreamFramer()
    assert [item for byte in PING for item in framer.feed(bytes([byte]))] == [PING]


@pytest.mark.parametrize(
    "data",
    [
        b"OPTIONS sip:a SIP/2.0\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nl: -1\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nl: 1\r\nl: 2\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nl: 99999999999999\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nl: 65535\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_streams_that_cannot_be_followed(data: bytes) -> None:
    """Without one usable Content-Length, or beyond the limit, the stream is of no use."""
    with pytest.raises(SipParseError):
        StreamFramer().feed(data)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([ONE[:20], TWO, PING, b"\r\nl:", b"\r\n"]), max_size=20))
def test_any_stream_raises_only_the_parser_error(pieces: list[bytes]) -> None:
    """Whatever comes, SipParseError is all that is raised."""
    framer = StreamFramer()
    try:
        for piece in pieces:
            framer.feed(piece)
    except SipParseError:
        pass


def test_long_headers_in_small_pieces_take_linear_time() -> None:
    """A header that drips in is searched once, not from its start each time."""
    framer = StreamFramer()
    for _ in range(60_000):
        framer.feed(b"x")
    assert framer.pending
