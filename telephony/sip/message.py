"""SIP messages as values: lexing and writing, without sockets (RFC 3261 section 7).

A message in memory is clean: no header field holds a control character, whatever came over the wire. What
the fields mean is fields.py's matter. Runs on the gateway's event loop.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from telephony.errors import SipParseError
from telephony.sip.grammar import TOKEN, parse_number, split_outside

MAX_MESSAGE_BYTES: Final = 65_535
MAX_HEADER_FIELDS: Final = 256

_COMPACT: Final = {
    "a": "Accept-Contact",
    "b": "Referred-By",
    "c": "Content-Type",
    "d": "Request-Disposition",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
}
_IRREGULAR: Final = {
    "call-id": "Call-ID",
    "cseq": "CSeq",
    "mime-version": "MIME-Version",
    "min-se": "Min-SE",
    "rack": "RAck",
    "rseq": "RSeq",
    "www-authenticate": "WWW-Authenticate",
}
_LISTS: Final = frozenset({"Via", "Route", "Record-Route", "Contact"})
_CONTROL: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_REQUEST_LINE: Final = re.compile(r"([^ ]+) (.+) SIP/([0-9]+\.[0-9]+) *", re.I)
_STATUS_LINE: Final = re.compile(r"SIP/([0-9]+\.[0-9]+) ([0-9]+)(?: (.*))?", re.I)

REASONS: Final = {
    100: "Trying",
    200: "OK",
    302: "Moved Temporarily",
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    500: "Server Internal Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "Version Not Supported",
    513: "Message Too Large",
    603: "Decline",
}


@lru_cache(maxsize=512)
def canonical_name(name: str) -> str:
    """A header field's name as it is written: long form, capitals where the RFCs put them."""
    lower = name.lower()
    return (
        _COMPACT.get(lower)
        or _IRREGULAR.get(lower)
        or "-".join(part[:1].upper() + part[1:] for part in lower.split("-"))
    )


def clean(value: str) -> str:
    """Text fit for one header field: control characters become question marks, tabs spaces."""
    return _CONTROL.sub("?", value.replace("\t", " ")).strip()


class Headers:
    """Header fields in order, under canonical names; Via, Route, Record-Route and Contact hold one value each."""

    __slots__ = ("_fields",)

    def __init__(self, fields: list[tuple[str, str]] | None = None) -> None:
        self._fields: list[tuple[str, str]] = fields or []

    def get(self, name: str) -> str | None:
        """The first value of that name."""
        return next((value for key, value in self._fields if key == name), None)

    def all(self, name: str) -> list[str]:
        """Every value of that name, in order."""
        return [value for key, value in self._fields if key == name]

    def tokens(self, name: str) -> list[str]:
        """The comma-separated items of every field of that name."""
        return [item.strip() for value in self.all(name) for item in value.split(",") if item.strip()]

    def add(self, name: str, value: str) -> None:
        """Append a field."""
        self._fields.append((name, clean(value)))

    def replace(self, name: str, values: list[str]) -> None:
        """Put these in the place of every field of that name, where the first stood or at the end."""
        first = next((n for n, (key, _) in enumerate(self._fields) if key == name), len(self._fields))
        kept = [pair for pair in self._fields[first:] if pair[0] != name]
        self._fields[first:] = [(name, clean(value)) for value in values] + kept

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._fields == other._fields

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"


@dataclass(slots=True)
class Request:
    """A request; the Request-URI is text, checked by whoever uses it."""

    method: str
    uri: str
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    version: str = "2.0"

    def serialise(self) -> bytes:
        """Write the request anew."""
        return _serialise(f"{self.method} {clean(self.uri)} SIP/{self.version}", self.headers, self.body)


@dataclass(slots=True)
class Response:
    """A response."""

    status: int
    reason: str
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    version: str = "2.0"

    def serialise(self) -> bytes:
        """Write the response anew."""
        return _serialise(f"SIP/{self.version} {self.status:03d} {clean(self.reason)}", self.headers, self.body)

    @classmethod
    def to(cls, request: Request, status: int, reason: str | None = None, tag: str = "") -> "Response":
        """A response to a request: Via, From, To, Call-ID and CSeq are the request's (section 8.2.6.2).

        The tag goes to To where that has none; header fields that the request lacks are left out.
        """
        response = cls(status, reason or REASONS.get(status, "Unknown"))
        for name in ("Via", "From", "To", "Call-ID", "CSeq"):
            for value in request.headers.all(name):
                if name == "To" and tag and not re.search(r";\s*tag\s*=", value, re.I):
                    value = f"{value};tag={tag}"
                response.headers.add(name, value)
        return response


Message = Request | Response


def _serialise(start_line: str, headers: Headers, body: bytes) -> bytes:
    lines = [start_line]
    lines += [f"{name}: {value}" for name, value in headers if name != "Content-Length"]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def parse_message(data: bytes, *, stream: bool = False) -> Message:
    """Parse one message: a datagram, or one that StreamFramer cut from a stream.

    Bytes of a datagram beyond Content-Length are dropped (section 18.3). Raises SipParseError for what is no SIP
    message at all; a message that is only wrong in some field parses, so that it can be answered.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise SipParseError("message too large", 513)
    head, separator, body = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
    if not separator:
        raise SipParseError("no end of the header")
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        raise SipParseError("header is not UTF-8") from None
    headers = Headers(list(_parse_fields(lines[1:])))
    message = _parse_start_line(lines[0], headers)
    message.body = _cut_body(headers, body, stream)
    return message


def _parse_start_line(line: str, headers: Headers) -> Message:
    if _CONTROL.search(line) or "\t" in line:
        raise SipParseError("control character in the start line")
    match = _STATUS_LINE.fullmatch(line)
    if match is not None:
        status = parse_number(match.group(2), 699)
        if status < 100:
            raise SipParseError("status out of range")
        return Response(status, match.group(3) or "", headers, version=match.group(1))
    match = _REQUEST_LINE.fullmatch(line)
    if match is None or not TOKEN.fullmatch(match.group(1)):
        raise SipParseError("malformed start line")
    return Request(match.group(1), match.group(2), headers, version=match.group(3))


def _parse_fields(lines: list[str]) -> Iterator[tuple[str, str]]:
    count = 0
    for line in _unfold(lines):
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not TOKEN.fullmatch(name):
            raise SipParseError("malformed header field")
        name = canonical_name(name)
        values = _split_list(value) if name in _LISTS else [value]
        count += len(values)
        if count > MAX_HEADER_FIELDS:
            raise SipParseError("too many header fields", 513)
        for item in values:
            yield name, clean(item)


def _split_list(value: str) -> list[str]:
    try:
        return split_outside(value, ",")
    except SipParseError:
        return [value]  # kept whole, so that fields.py finds it malformed and a 400 can be sent


def _unfold(lines: list[str]) -> Iterator[str]:
    folded: list[str] = []
    for line in lines:
        if line.startswith((" ", "\t")):
            if not folded:
                raise SipParseError("header starts with a continuation line")
            folded.append(line.strip(" \t"))
            continue
        if folded:
            yield " ".join(folded)
        folded = [line]
    if folded:
        yield " ".join(folded)


def _cut_body(headers: Headers, body: bytes, stream: bool) -> bytes:
    """Cut the body to Content-Length; a broken length stays in the headers for fields.py to refuse."""
    lengths = headers.all("Content-Length")
    if stream or len(lengths) != 1:
        return body
    try:
        length = parse_number(lengths[0], MAX_MESSAGE_BYTES)
    except SipParseError:
        return body
    return body[:length]
