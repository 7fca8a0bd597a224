"""Cutting a byte stream into SIP messages by Content-Length (RFC 3261 section 18.3). Pure, one per connection."""

import re
from typing import Final

from telephony.errors import SipParseError
from telephony.sip.grammar import parse_number
from telephony.sip.message import MAX_MESSAGE_BYTES

PING: Final = b"\r\n\r\n"
PONG: Final = b"\r\n"
_LENGTH: Final = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*(?:\r\n[ \t]+)?([^\r\n]*)", re.I)


class StreamFramer:
    """Bytes in, whole messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._needed: int | None = None

    @property
    def pending(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer.strip(b"\r\n"))

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, return what they complete: messages, and PING for each keep-alive (RFC 5626 section 4.4.1).

        Raises SipParseError where the stream cannot be followed any further: no usable Content-Length, or a
        message beyond the size limit. The connection is then of no use.
        """
        self._buffer += data
        items: list[bytes] = []
        while (item := self._next()) is not None:
            items.append(item)
        return items

    def _next(self) -> bytes | None:
        if self._needed is None:
            if self._searched == 0:
                if self._buffer.startswith(b"\r\n"):
                    return self._keep_alive()
                if self._buffer == b"\r":
                    return None
            end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
            self._searched = len(self._buffer)
            if end < 0:
                if self._searched > MAX_MESSAGE_BYTES:
                    raise SipParseError("header too large", 513)
                return None
            self._needed = end + 4 + _content_length(bytes(self._buffer[: end + 2]))
            if self._needed > MAX_MESSAGE_BYTES:
                raise SipParseError("message too large", 513)
        if len(self._buffer) < self._needed:
            return None
        return self._take(self._needed)

    def _keep_alive(self) -> bytes | None:
        if self._buffer.startswith(PING):
            return self._take(4)
        if len(self._buffer) == 2 or (len(self._buffer) == 3 and self._buffer[2] == 0x0D):
            return None  # half a ping, or an empty line before a message
        del self._buffer[:2]
        return self._next()

    def _take(self, count: int) -> bytes:
        item = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._searched = 0
        self._needed = None
        return item


def _content_length(head: bytes) -> int:
    values = _LENGTH.findall(head)
    if len(values) != 1:
        raise SipParseError("a message on a stream needs one Content-Length")
    return parse_number(values[0].strip().decode("ascii", "replace"), MAX_MESSAGE_BYTES)
