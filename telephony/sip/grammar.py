"""The pieces of SIP's grammar that several header fields share (RFC 3261 section 25.1). Pure, linear in its input."""

import re
from typing import Final

from telephony.errors import SipParseError

TOKEN: Final = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
HOST: Final = r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253})"
_QUOTED: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_PARAM: Final = re.compile(
    rf"\s*([A-Za-z0-9\-.!%*_+`'~]+)\s*(?:=\s*({_QUOTED}|[^\s;,\"<>=\x00-\x1f\x7f][^\s;,\"<>\x00-\x1f\x7f]*)\s*)?", re.S
)
_SPECIALS: Final = {
    separator: re.compile(rf'{_QUOTED}|["<>]|{re.escape(separator)}', re.S) for separator in (",", ";", "<")
}


def is_token(text: str) -> bool:
    """Whether the text is a token."""
    return TOKEN.fullmatch(text) is not None


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a comma or semicolon that stands outside quoted strings and angle brackets; the parts are stripped.

    Raises SipParseError where a quote or bracket is not closed.
    """
    parts: list[str] = []
    start = 0
    bracketed = False
    for match in _SPECIALS[separator].finditer(text):
        found = match.group()
        if found == '"':
            raise SipParseError("unbalanced quote")
        if found == "<":
            if bracketed:
                raise SipParseError("nested angle bracket")
            bracketed = True
        elif found == ">":
            if not bracketed:
                raise SipParseError("stray angle bracket")
            bracketed = False
        elif found == separator and not bracketed:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    if bracketed:
        raise SipParseError("unbalanced angle bracket")
    parts.append(text[start:].strip())
    return parts


def find_angle(text: str) -> int:
    """Where the first ``<`` outside a quoted string stands, -1 where there is none."""
    for match in _SPECIALS["<"].finditer(text):
        if match.group() == '"':
            raise SipParseError("unbalanced quote")
        if match.group() == "<":
            return match.start()
    return -1


def parse_params(text: str) -> dict[str, str | None]:
    """Parse ``;name=value;name`` (generic-param); names are lower case, values as written.

    Raises SipParseError for an empty, malformed or repeated parameter.
    """
    params: dict[str, str | None] = {}
    text = text.strip()
    if not text:
        return params
    if text[0] != ";":
        raise SipParseError("text where a parameter is expected")
    for part in split_outside(text[1:], ";"):
        match = _PARAM.fullmatch(part)
        if match is None:
            raise SipParseError("malformed parameter")
        name = match.group(1).lower()
        if name in params:
            raise SipParseError(f"parameter {name} given twice")
        params[name] = match.group(2)
    return params


def format_params(params: dict[str, str | None]) -> str:
    """Write parameters as ``;name=value;name``."""
    return "".join(f";{name}" if value is None else f";{name}={value}" for name, value in params.items())


def parse_number(text: str, limit: int) -> int:
    """Parse 1*DIGIT up to a limit; raises SipParseError beyond it (RFC 3261 sections 8.1.1.5 and 20)."""
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise SipParseError("not a number")
    number = int(text)
    if number > limit:
        raise SipParseError("number out of range")
    return number
