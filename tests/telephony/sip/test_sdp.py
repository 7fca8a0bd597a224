"""Session descriptions at the edge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.errors import SipParseError
from telephony.sip.sdp import SessionDescription

OFFER = (
    "v=0\r\no=a 1 2 IN IP4 10.1.1.1\r\ns=x\r\nc=IN IP4 10.1.1.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 9 0 96 101\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n"
    "a=fmtp:101 0-15\r\na=candidate:1 1 UDP 1 10.1.1.1 4000 typ host\r\na=rtcp:4001 IN IP4 10.1.1.1\r\na=sendonly\r\n"
    "m=video 5000 RTP/AVP 97\r\nc=IN IP4 10.1.1.2\r\na=rtpmap:97 H264/90000\r\nm=audio 0 RTP/AVP 8\r\n"
)


def test_encodings_of_an_offer() -> None:
    """Audio encodings come in the peer's order, static ones by their RFC 3551 names, refused streams left out."""
    description = SessionDescription.parse(OFFER.encode())
    assert description.audio_encodings() == ["G722", "PCMU", "OPUS", "TELEPHONE-EVENT"]


def test_what_is_written_anew() -> None:
    """Known lines stay, foreign attributes go, and the same is written again and again."""
    written = SessionDescription.parse(OFFER.encode()).serialise()
    assert b"candidate" not in written
    assert b"a=fmtp:101 0-15\r\na=rtcp:4001 IN IP4 10.1.1.1\r\na=sendonly\r\n" in written
    assert SessionDescription.parse(written).serialise() == written


def test_addresses_are_replaced_everywhere() -> None:
    """o=, every c= and a=rtcp say the new address; IPv6 is told as such."""
    text = SessionDescription.parse(OFFER.encode()).with_address("2001:db8::1").serialise().decode()
    assert "10.1.1" not in text
    assert text.count("IN IP6 2001:db8::1") == 3
    assert "a=rtcp:4001\r\n" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("v=0", "v=1"),
        ("o=a 1 2", "o=a b c"),
        ("c=IN IP4 10.1.1.1", "c=IN IP4 a b"),
        ("t=0 0", "t=x"),
        ("m=audio 4000", "m=audio 70000"),
        ("m=audio 4000 RTP/AVP 9 0 96 101", "m=audio"),
        ("s=x", "rubbish"),
        ("s=x", "s=\x01"),
        ("m=video", "m=audio 1 RTP/AVP 0\r\n" * 9 + "m=video"),
        ("a=sendonly", "a=sendonly\r\n" * 60),
        ("RTP/AVP 97", "RTP/AVP " + " ".join(str(n) for n in range(60))),
        ("s=x", "s=" + "x" * 20_000),
        ("c=IN IP4 10.1.1.1\r\nt", "t"),
    ],
)
def test_malformed_descriptions(old: str, new: str) -> None:
    """Malformed and oversized descriptions are refused."""
    with pytest.raises(SipParseError):
        SessionDescription.parse(OFFER.replace(old, new, 1).encode())


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([*OFFER.split("\r\n"), "a=rtpmap:", "m=", "c=IN IP6 ::1", "b=AS:64"]), max_size=25).map(
        lambda lines: "\r\n".join(["v=0", "o=a 1 2 IN IP4 h", "c=IN IP4 h", *lines]).encode()
    )
)
def test_any_body_raises_only_the_parser_error(body: bytes) -> None:
    """Whatever a body holds, it parses stably or raises SipParseError."""
    try:
        description = SessionDescription.parse(body)
    except SipParseError:
        return
    written = description.serialise()
    assert SessionDescription.parse(written).serialise() == written
    description.audio_encodings()
