"""The header fields that every SIP message needs, understood (RFC 3261 sections 8.1.1 and 20). Pure."""

import re
from dataclasses import dataclass, replace
from typing import Final, Self

from telephony.errors import SipParseError
from telephony.sip.grammar import HOST, format_params, is_token, parse_number, parse_params
from telephony.sip.message import Headers, Message, Request
from telephony.sip.uri import NameAddr, format_host, parse_tag

MAGIC_COOKIE: Final = "z9hG4bK"
MAX_CSEQ: Final = 2**31 - 1
_VIA: Final = re.compile(
    rf"SIP\s*/\s*([0-9]+\.[0-9]+)\s*/\s*([A-Za-z0-9\-.!%*_+`'~]+)\s+({HOST})\s*(?::\s*([0-9]{{1,5}})\s*)?(;.*)?",
    re.I | re.S,
)
_CALL_ID: Final = re.compile(r"[A-Za-z0-9\-.!%*_+`'~()<>:\\\"/\[\]?{}@$&=,;]{1,512}")
_CSEQ: Final = re.compile(r"([0-9]+)\s+(\S+)")
_ONCE: Final = ("From", "To", "Call-ID", "CSeq", "Max-Forwards", "Content-Length", "Content-Type")


@dataclass(frozen=True, slots=True)
class Via:
    """One hop a request took (section 20.42)."""

    transport: str
    host: str
    port: int | None
    params: dict[str, str | None]
    version: str = "2.0"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse one Via value. Raises SipParseError."""
        match = _VIA.fullmatch(text.strip())
        if match is None:
            raise SipParseError("malformed Via")
        version, transport, host, port, params = match.groups()
        number = None if port is None else parse_number(port, 65_535)
        return cls(transport.upper(), host, number, parse_params(params or ""), version)

    @property
    def branch(self) -> str:
        """The branch, "" where it has none (RFC 2543)."""
        return self.params.get("branch") or ""

    @property
    def sent_by(self) -> str:
        """Host and port as the sender gave them, lower case."""
        return f"{self.host.lower()}:{self.port or 5060}"

    def received_from(self, source: tuple[str, int]) -> "Via":
        """The same with received and rport as the source address asks (section 18.2.1, RFC 3581)."""
        params = {name: value for name, value in self.params.items() if name != "received"}
        if self.host.strip("[]") != source[0] or "rport" in params:
            params["received"] = source[0]
        if "rport" in params:
            params["rport"] = str(source[1])
        return replace(self, params=params)

    def reply_address(self, source: tuple[str, int]) -> tuple[str, int]:
        """Where an unreliable response goes: the source's host; its port only with rport (section 18.2.2)."""
        return source if "rport" in self.params else (source[0], self.port or 5060)

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/{self.version}/{self.transport} {format_host(self.host)}{port}{format_params(self.params)}"


@dataclass(frozen=True, slots=True)
class Core:
    """The mandatory fields of a message, parsed and checked."""

    via: Via  # the topmost
    from_: NameAddr
    to: NameAddr
    call_id: str
    cseq: int
    method: str  # CSeq's
    max_forwards: int

    @property
    def from_tag(self) -> str:
        """From's tag, "" for RFC 2543 peers."""
        return self.from_.tag

    @property
    def to_tag(self) -> str:
        """To's tag, "" outside a dialog."""
        return self.to.tag

    @classmethod
    def read(cls, message: Message) -> Self:
        """Read the mandatory fields.

        Raises SipParseError: 505 for another SIP version, 400 where a field is missing, malformed or given more
        often than it may be.
        """
        if message.version != "2.0":
            raise SipParseError("SIP version", 505)
        headers = message.headers
        values = {name: _at_most_once(headers, name) for name in _ONCE}
        vias = [Via.parse(value) for value in headers.all("Via")]
        if not vias:
            raise SipParseError("no Via")
        from_, to = NameAddr.parse(_present(values, "From")), NameAddr.parse(_present(values, "To"))
        parse_tag(from_)
        parse_tag(to)
        call_id = _present(values, "Call-ID")
        if not _CALL_ID.fullmatch(call_id):
            raise SipParseError("malformed Call-ID")
        cseq, method = parse_cseq(_present(values, "CSeq"))
        if isinstance(message, Request) and method != message.method:
            raise SipParseError("CSeq names another method")
        _check_length(values["Content-Length"], len(message.body))
        hops = values["Max-Forwards"]
        return cls(vias[0], from_, to, call_id, cseq, method, 70 if hops is None else parse_number(hops, 255))


def parse_cseq(text: str) -> tuple[int, str]:
    """Parse a CSeq: its number, below 2**31, and method."""
    match = _CSEQ.fullmatch(text)
    if match is None or not is_token(match.group(2)):
        raise SipParseError("malformed CSeq")
    return parse_number(match.group(1), MAX_CSEQ), match.group(2)


def read_contact(headers: Headers) -> str | None:
    """The URI of the one Contact of a dialog-forming message, None where it has none.

    Raises SipParseError for more than one, a malformed one, or a URI that is not SIP (section 12.1.1).
    """
    contacts = headers.all("Contact")
    if not contacts:
        return None
    if len(contacts) > 1:
        raise SipParseError("more than one Contact")
    contact = NameAddr.parse(contacts[0])
    if not contact.uri.lower().startswith(("sip:", "sips:")):
        raise SipParseError("Contact is no SIP URI")
    return contact.uri


def media_type(headers: Headers) -> str:
    """Content-Type without its parameters, lower case; "" where there is none."""
    return (headers.get("Content-Type") or "").partition(";")[0].replace(" ", "").lower()


def _present(values: dict[str, str | None], name: str) -> str:
    value = values[name]
    if not value:
        raise SipParseError(f"no {name}")
    return value


def _at_most_once(headers: Headers, name: str) -> str | None:
    values = headers.all(name)
    if len(values) > 1:
        raise SipParseError(f"more than one {name}")
    return values[0] if values else None


def _check_length(value: str | None, length: int) -> None:
    if value is not None and parse_number(value, 2**31) != length:
        raise SipParseError("Content-Length beyond the message")
