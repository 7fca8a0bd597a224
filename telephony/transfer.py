"""Sending a caller elsewhere: the outcome of a transfer, and which targets are fit to be told to a peer. Pure."""

from dataclasses import dataclass

from telephony.errors import SipParseError
from telephony.sip.uri import SipUri


@dataclass(frozen=True, slots=True)
class Transfer:
    """How a blind transfer went (RFC 3515): the last SIP status that was told of it, in numbers and in words.

    2xx: the target answered, and the call has been hung up. Otherwise the call goes on, unless it was its end that cut
    the transfer short: 408, nothing was heard in time; 487, the call ended meanwhile; 491, an earlier transfer of this
    call is still open; any other: the caller's phone, or the target, said so.
    """

    accepted: bool
    status: int
    reason: str


def parse_target(text: str) -> str:
    """Return the SIP URI of a target as it is told to a peer; raises ``ValueError`` for anything else.

    Header fields in it (``?Replaces=...``) are refused: they would be the peer's to send in our name.
    """
    try:
        uri = SipUri.parse(text.strip())
    except SipParseError as error:
        raise ValueError(f"{text!r}: {error}") from error
    if uri.headers or "method" in uri.params:
        raise ValueError(f"{text!r}: a target may carry no header fields and no method")
    return str(uri)
