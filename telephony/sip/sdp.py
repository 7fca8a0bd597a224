"""Session descriptions, as far as the edge must understand them (RFC 8866, RFC 3264). Pure.

Only what an audio line needs crosses the edge: lines and attributes outside that are left out, in either direction.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Final, Self

from telephony.errors import SipParseError

MAX_SDP_BYTES: Final = 16_384
MAX_STREAMS: Final = 8
MAX_FORMATS: Final = 24
MAX_ATTRIBUTES: Final = 48

STATIC_PAYLOADS: Final = {"0": "PCMU", "3": "GSM", "4": "G723", "8": "PCMA", "9": "G722", "18": "G729"}
"""Encoding names of static payload types (RFC 3551 section 6)."""

_LINE: Final = re.compile(r"([a-z])=([^\x00-\x1f\x7f]*)")
_ORIGIN: Final = re.compile(r"(\S+) (\d{1,20}) (\d{1,20}) IN (IP4|IP6) ([A-Za-z0-9.:\-_]{1,255})")
_CONNECTION: Final = re.compile(r"IN (IP4|IP6) ([A-Za-z0-9.:\-_]{1,255})(?:/\d{1,3}){0,2}")
_TIME: Final = re.compile(r"\d{1,20} \d{1,20}")
_BANDWIDTH: Final = re.compile(r"[A-Za-z0-9\-]{1,16}:\d{1,9}")
_MEDIA: Final = re.compile(r"([A-Za-z0-9\-.]+) (\d{1,5})(?:/\d{1,3})? ([A-Za-z0-9/\-.]+)((?: [A-Za-z0-9\-.*+]+)+)")
_RTPMAP: Final = re.compile(r"(\d{1,3}) ([A-Za-z0-9\-._]+)/(\d{1,6})(?:/(\d{1,2}))?")
_ATTRIBUTES: Final = {
    "rtpmap": _RTPMAP,
    "fmtp": re.compile(r"\d{1,3} [!-~][ -~]{0,255}"),
    "ptime": re.compile(r"\d{1,4}"),
    "maxptime": re.compile(r"\d{1,4}"),
    "rtcp": re.compile(r"\d{1,5}(?: IN IP[46] [A-Za-z0-9.:\-_]{1,255})?"),
    "sendrecv": None,
    "sendonly": None,
    "recvonly": None,
    "inactive": None,
}
"""Attributes that cross the edge, with the form of their value; None: a property attribute."""


@dataclass(frozen=True, slots=True)
class Media:
    """One media description (RFC 8866 section 5.14)."""

    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    connection: str | None = None  # the address of its own c= line
    bandwidth: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    def encodings(self) -> list[str]:
        """Encoding names of its formats in the peer's order, upper case; unmapped dynamic ones are left out."""
        mapped = {}
        for name, value in self.attributes:
            if name == "rtpmap" and (match := _RTPMAP.fullmatch(value)):
                mapped[match.group(1)] = match.group(2).upper()
        names = (mapped.get(payload) or STATIC_PAYLOADS.get(payload) for payload in self.formats)
        return [name for name in names if name is not None]


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """A session description, reduced to what an audio line needs."""

    user: str
    session_id: int
    version: int
    origin: str  # the address of o=
    connection: str | None = None  # the address of the session's c= line
    bandwidth: tuple[str, ...] = ()
    time: str = "0 0"
    attributes: tuple[tuple[str, str], ...] = ()
    media: tuple[Media, ...] = field(default=())

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse and check a description. Raises SipParseError (400) for one that is malformed or too large."""
        if len(body) > MAX_SDP_BYTES:
            raise SipParseError("session description too large", 413)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise SipParseError("session description is not UTF-8") from None
        sections: list[list[tuple[str, str]]] = [[]]
        for line in re.split(r"\r?\n", text.rstrip("\r\n")):
            match = _LINE.fullmatch(line)
            if match is None:
                raise SipParseError("malformed line in a session description")
            if match.group(1) == "m":
                sections.append([])
            sections[-1].append((match.group(1), match.group(2)))
        if len(sections) - 1 > MAX_STREAMS:
            raise SipParseError("too many media descriptions")
        session = sections[0]
        if not session or session[0] != ("v", "0"):
            raise SipParseError("session description does not begin with v=0")
        origin = _ORIGIN.fullmatch(_single(session, "o") or "")
        if origin is None:
            raise SipParseError("malformed origin")
        user, session_id, version, _, address = origin.groups()
        media = tuple(_parse_media(lines) for lines in sections[1:])
        connection = _parse_connection(session)
        if connection is None and any(stream.connection is None for stream in media):
            raise SipParseError("no connection address")
        time = _single(session, "t") or "0 0"
        if not _TIME.fullmatch(time):
            raise SipParseError("malformed time")
        return cls(
            _user(user),
            int(session_id),
            int(version),
            address,
            connection,
            _parse_bandwidth(session),
            time,
            _parse_attributes(session),
            media,
        )

    def audio_encodings(self) -> list[str]:
        """Encoding names of every audio stream that is not refused (port 0), upper case, in the peer's order."""
        return [name for m in self.media if m.kind == "audio" and m.port != 0 for name in m.encodings()]

    def with_address(self, address: str) -> "SessionDescription":
        """The same with this address in o=, every c= and every a=rtcp."""
        media = tuple(
            replace(
                stream,
                connection=None if stream.connection is None else address,
                attributes=_readdress(stream.attributes),
            )
            for stream in self.media
        )
        connection = None if self.connection is None else address
        return replace(
            self, user="-", origin=address, connection=connection, attributes=_readdress(self.attributes), media=media
        )

    def serialise(self) -> bytes:
        """Write the description anew."""
        lines = ["v=0", f"o={self.user} {self.session_id} {self.version} {_net_address(self.origin)}", "s=-"]
        lines += _connection_line(self.connection)
        lines += [f"b={value}" for value in self.bandwidth]
        lines.append(f"t={self.time}")
        lines += _attribute_lines(self.attributes)
        for stream in self.media:
            lines.append(f"m={stream.kind} {stream.port} {stream.protocol} {' '.join(stream.formats)}")
            lines += _connection_line(stream.connection)
            lines += [f"b={value}" for value in stream.bandwidth]
            lines += _attribute_lines(stream.attributes)
        return ("\r\n".join(lines) + "\r\n").encode()


def _parse_media(lines: list[tuple[str, str]]) -> Media:
    match = _MEDIA.fullmatch(lines[0][1].rstrip())
    if match is None:
        raise SipParseError("malformed media description")
    formats = tuple(match.group(4).split())
    if int(match.group(2)) > 65_535 or len(formats) > MAX_FORMATS:
        raise SipParseError("media description out of range")
    return Media(
        match.group(1),
        int(match.group(2)),
        match.group(3),
        formats,
        _parse_connection(lines),
        _parse_bandwidth(lines),
        _parse_attributes(lines),
    )


def _parse_connection(lines: list[tuple[str, str]]) -> str | None:
    value = _single(lines, "c")
    if value is None:
        return None
    match = _CONNECTION.fullmatch(value.rstrip())
    if match is None:
        raise SipParseError("malformed connection address")
    return match.group(2)


def _parse_bandwidth(lines: list[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(value for kind, value in lines if kind == "b" and _BANDWIDTH.fullmatch(value))[:4]


def _parse_attributes(lines: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    kept = []
    for kind, text in lines:
        if kind != "a":
            continue
        name, colon, value = text.partition(":")
        if name not in _ATTRIBUTES:
            continue
        form = _ATTRIBUTES[name]
        value = value.strip()
        if (not colon) if form is None else form.fullmatch(value) is not None:
            kept.append((name, value))
    if len(kept) > MAX_ATTRIBUTES:
        raise SipParseError("too many attributes")
    return tuple(kept)


def _single(lines: list[tuple[str, str]], kind: str) -> str | None:
    values = [value for key, value in lines if key == kind]
    return values[0] if values else None


def _user(text: str) -> str:
    return text if re.fullmatch(r"[!-~]{1,64}", text) else "-"


def _net_address(address: str) -> str:
    return f"IN {'IP6' if ':' in address else 'IP4'} {address}"


def _connection_line(address: str | None) -> list[str]:
    return [] if address is None else [f"c={_net_address(address)}"]


def _attribute_lines(attributes: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"a={name}:{value}" if value else f"a={name}" for name, value in attributes]


def _readdress(attributes: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value.partition(" ")[0] if name == "rtcp" else value) for name, value in attributes)
