"""SIP URIs and name-addrs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.errors import SipParseError
from telephony.sip.uri import NameAddr, SipUri, unescape

URIS = [
    "sip:example.com",
    "sip:alice:secret@example.com:5080;transport=tcp;lr?subject=x&to=y",
    "sips:%61lice@[2001:db8::1]:5061",
    "sip:user;par=u%40example.net@example.com",
    "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
    "sip:*21#@10.0.0.1",
]


@pytest.mark.parametrize("text", URIS)
def test_good_uris_are_written_as_they_came(text: str) -> None:
    """A URI that parses is stable; a password is not kept."""
    uri = SipUri.parse(text)
    assert SipUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("tel:+81312345678", 416),
        ("soap.beep://192.0.2.103:3002", 416),
        ("sip:", 400),
        ("sip:@host", 400),
        ("sip:a b@host", 400),
        ("sip:a@b@host", 400),
        ("sip:host:99999", 400),
        ("sip:host;;", 400),
        ("sip:host;a;a", 400),
        ("sip:%zz@host", 400),
        ("<sip:host>", 400),
        ("", 400),
    ],
)
def test_bad_uris(text: str, status: int) -> None:
    """What is no SIP URI is refused, another scheme with 416."""
    with pytest.raises(SipParseError) as caught:
        SipUri.parse(text)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("text", "uri", "tag", "user"),
    [
        ('"A \\" <b>" <sip:a@b;x=1>;tag=t', "sip:a@b;x=1", "t", "a"),
        ("sip:a@b;tag=t", "sip:a@b", "t", "a"),
        ("Alice Smith <tel:+123;ext=4> ; tag = t", "tel:+123;ext=4", "t", "+123"),
        ("<sip:%2B8@h>", "sip:%2B8@h", "", "+8"),
        ("<http://x.test/>", "http://x.test/", "", ""),
    ],
)
def test_name_addrs(text: str, uri: str, tag: str, user: str) -> None:
    """URI, tag and user come out of every form of a name-addr, and stay when it is written anew."""
    address = NameAddr.parse(text)
    assert (address.uri, address.tag, address.user()) == (uri, tag, user)
    assert NameAddr.parse(str(address)) == address
    assert address.with_tag("new").tag == "new"
    assert "tag" not in str(address.with_tag(""))


@pytest.mark.parametrize(
    "text",
    ['"open <sip:a@b>', "<sip:a@b", "a, b <sip:a@b>", "<sip:a@b>;;", "<sip:a@b> x", "< sip:a@b >", "sip:a@b?x=y", ""],
)
def test_bad_name_addrs(text: str) -> None:
    """Unbalanced, unquoted or trailing text is refused."""
    with pytest.raises(SipParseError):
        NameAddr.parse(text)


@given(st.text(max_size=60) | st.from_regex(r'"?[a<>";, \\]{0,8}<?sips?:[a-z@:;=?%&\[\]0-9]{0,20}>?[;=a"]{0,6}'))
def test_any_text_raises_only_the_parser_error(text: str) -> None:
    """Whatever text is given, it parses stably or raises SipParseError."""
    for kind in (SipUri, NameAddr):
        try:
            parsed = kind.parse(text)
        except SipParseError:
            continue
        assert kind.parse(str(parsed)) == parsed


def test_unescaping_never_yields_control_characters() -> None:
    """Escapes that hide control characters or broken UTF-8 stay as they are."""
    assert [unescape(text) for text in ("%2B1", "a%00b", "%ff", "%E3%81%82", "%0d%0a")] == [
        *("+1", "a%00b", "%ff", "\u3042", "%0d%0a")
    ]
