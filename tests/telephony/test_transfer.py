import pytest

from telephony.end_cause import EndCause, EndResult
from telephony.transfer import parse_target


@pytest.mark.parametrize("uri", ["sip:desk@192.0.2.1", "sips:+49%20x@pbx.test:5061;transport=tcp", "sip:[2001:db8::1]"])
def test_a_sip_uri_is_a_target(uri: str) -> None:
    """It is told to the peer as it was given."""
    assert parse_target(f" {uri} ") == uri
    cause = EndCause.redirected(uri)
    assert (cause.result, cause.sip_status, cause.contact) == (EndResult.REJECTED, 302, uri)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "desk",
        "tel:110",
        "<sip:a@b>",
        "sip:a@b?Subject=x",
        "sip:a@b;method=BYE",
        "sip:a@b\r\nX: y",
        "sip:a@b, sip:c@d",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    """Other schemes, header fields, methods, and what would break out of a header are refused."""
    with pytest.raises(ValueError, match=r"URI|target|parameter"):
        parse_target(text)
    with pytest.raises(ValueError, match=r"URI|target|parameter"):
        EndCause.redirected(text)
