"""SIP URIs and name-addrs (RFC 3261 sections 19.1 and 20.10). Pure."""

import re
from dataclasses import dataclass, field, replace
from typing import Final, Self
from urllib.parse import unquote

from telephony.errors import SipParseError
from telephony.sip.grammar import HOST, find_angle, format_params, is_token, parse_number, parse_params

_USER: Final = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/#]|%[0-9A-Fa-f]{2})+")
_PASSWORD: Final = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,]|%[0-9A-Fa-f]{2})*")
_PARAM: Final = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$]|%[0-9A-Fa-f]{2})+")
_HEADERS: Final = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/?:+$=&,;]|%[0-9A-Fa-f]{2})*")
_HOST_PORT: Final = re.compile(rf"({HOST})(?::([0-9]{{1,5}}))?")
_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):([^\s<>\"\x00-\x20\x7f]+)")
_DISPLAY: Final = re.compile(r"\s*(?:\"[^\"\\]*(?:\\.[^\"\\]*)*\"|[^\"<>,;:@\\]*)\s*", re.S)


def unescape(text: str) -> str:
    """Undo %-escapes; text whose escapes hide control characters or broken UTF-8 is returned as written."""
    if "%" not in text:
        return text
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text
    return plain if plain.isprintable() else text


def format_host(address: str) -> str:
    """An address as it stands in a URI: IPv6 in brackets."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


@dataclass(frozen=True, slots=True)
class SipUri:
    """A ``sip:`` or ``sips:`` URI; user and parameters stay escaped as written."""

    host: str  # IPv6 in brackets
    user: str = ""
    port: int | None = None
    params: dict[str, str | None] = field(default_factory=dict)
    scheme: str = "sip"
    headers: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a SIP URI. Raises SipParseError: 416 for another scheme, 400 for anything malformed."""
        if text[:4].lower() == "sip:":
            scheme, rest = "sip", text[4:]
        elif text[:5].lower() == "sips:":
            scheme, rest = "sips", text[5:]
        else:
            status = 416 if _ABSOLUTE.fullmatch(text) else 400
            raise SipParseError("not a SIP URI", status)
        userinfo, at, rest = rest.rpartition("@")
        user, _, password = userinfo.partition(":")
        if at and not (_USER.fullmatch(user) and _PASSWORD.fullmatch(password)):
            raise SipParseError("malformed user part of a URI")
        rest, _, headers = rest.partition("?")
        if not _HEADERS.fullmatch(headers):
            raise SipParseError("malformed headers of a URI")
        host_port, *raw_params = rest.split(";")
        match = _HOST_PORT.fullmatch(host_port)
        if match is None:
            raise SipParseError("malformed host of a URI")
        port = None if match.group(2) is None else parse_number(match.group(2), 65_535)
        return cls(match.group(1), user, port, _parse_uri_params(raw_params), scheme, headers)

    @property
    def address(self) -> str:
        """The host, without the brackets of an IPv6 reference."""
        return self.host.strip("[]")

    @property
    def transport(self) -> str | None:
        """The transport parameter, lower case."""
        value = self.params.get("transport")
        return value.lower() if value else None

    def plain(self) -> str:
        """The URI without parameters and headers."""
        return str(replace(self, params={}, headers=""))

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = "" if self.port is None else f":{self.port}"
        headers = f"?{self.headers}" if self.headers else ""
        return f"{self.scheme}:{user}{self.host}{port}{format_params(self.params)}{headers}"


def _parse_uri_params(parts: list[str]) -> dict[str, str | None]:
    params: dict[str, str | None] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.lower()
        if not _PARAM.fullmatch(name) or (equals and not _PARAM.fullmatch(value)):
            raise SipParseError("malformed parameter of a URI")
        if name in params:
            raise SipParseError("parameter of a URI given twice")
        params[name] = value if equals else None
    return params


@dataclass(frozen=True, slots=True)
class NameAddr:
    """What stands in From, To, Contact, Route and Record-Route: a display name, a URI of any scheme, parameters."""

    uri: str
    display: str = ""  # as written, quotes included
    params: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name-addr, or an addr-spec whose parameters then belong to the header field (section 20.10)."""
        text = text.strip()
        opening = find_angle(text)
        if opening < 0:
            uri, semicolon, rest = text.partition(";")
            uri = uri.rstrip()
            if "?" in uri or "," in uri:
                raise SipParseError("a URI with commas or headers needs angle brackets")
            return cls(_check_uri(uri), "", parse_params(semicolon + rest))
        display = text[:opening]
        if not _DISPLAY.fullmatch(display):
            raise SipParseError("malformed display name")
        uri, closing, rest = text[opening + 1 :].partition(">")
        if not closing:
            raise SipParseError("unbalanced angle bracket")
        return cls(_check_uri(uri), display.strip(), parse_params(rest))

    @property
    def tag(self) -> str:
        """The tag parameter, "" where it has none (RFC 2543)."""
        return self.params.get("tag") or ""

    def with_tag(self, tag: str) -> "NameAddr":
        """The same with this tag; an empty one removes it."""
        params = {name: value for name, value in self.params.items() if name != "tag"}
        return replace(self, params={**params, "tag": tag} if tag else params)

    def user(self) -> str:
        """The user part, unescaped; the number of a ``tel:`` URI; else ""."""
        if self.uri[:4].lower() == "tel:":
            return unescape(self.uri[4:].partition(";")[0])
        try:
            return unescape(SipUri.parse(self.uri).user)
        except SipParseError:
            return ""

    def plain(self) -> str:
        """The URI without parameters."""
        try:
            return SipUri.parse(self.uri).plain()
        except SipParseError:
            return self.uri.partition(";")[0]

    def __str__(self) -> str:
        display = f"{self.display} " if self.display else ""
        return f"{display}<{self.uri}>{format_params(self.params)}"


def _check_uri(uri: str) -> str:
    if not _ABSOLUTE.fullmatch(uri):
        raise SipParseError("malformed URI")
    if uri[:4].lower() == "sip:" or uri[:5].lower() == "sips:":
        SipUri.parse(uri)
    return uri


def parse_tag(address: NameAddr) -> str:
    """The tag of a From or To, checked to be a token; "" where it has none."""
    tag = address.tag
    if ("tag" in address.params and not tag) or (tag and not is_token(tag)):
        raise SipParseError("malformed tag")
    return tag
