"""The pages of an Ogg stream, and how much Opus audio each holds, without decoding it. No input or output.

Ogg is RFC 3533, Opus in it RFC 7845, and the length of an Opus packet RFC 6716 section 3.1. What comes from a stranger
is weighed here before it costs a decoder's time: 16 kB of the smallest packets are minutes of audio.
"""

from typing import Final, NamedTuple

from model_runtime.errors import ProtocolError

_PAGE_BEGINS: Final = b"OggS\0"  # capture pattern and version
_HEADER: Final = 27  # bytes before the segment table (RFC 3533 section 6)
_SILK_MS: Final = (10.0, 20.0, 40.0, 60.0)  # RFC 6716 table 2
_HYBRID_MS: Final = (10.0, 20.0)
_CELT_MS: Final = (2.5, 5.0, 10.0, 20.0)
_MAX_PACKET_MS: Final = 120.0


class Page(NamedTuple):
    """One page, and the audio of the packets that begin in it."""

    data: bytes
    audio_s: float


class OggPages:
    """Cuts a stream of bytes into pages, however it was cut before."""

    def __init__(self) -> None:
        self._rest = b""
        self._open_packet = False  # the last page ended within a packet

    def feed(self, data: bytes) -> list[Page]:
        """The pages that are complete now; raises ``ProtocolError`` where the stream is not Ogg."""
        self._rest += data
        pages = []
        while size := self._page_size():
            page, self._rest = self._rest[:size], self._rest[size:]
            pages.append(Page(page, self._audio_s(page)))
        return pages

    def _page_size(self) -> int:
        """How long the page at the front is; 0 while it is not complete."""
        if not _PAGE_BEGINS.startswith(self._rest[: len(_PAGE_BEGINS)]):
            raise ProtocolError("audio: expected the pages of an Ogg stream")
        if len(self._rest) < _HEADER or len(self._rest) < _HEADER + self._rest[_HEADER - 1]:
            return 0
        segments = self._rest[_HEADER : _HEADER + self._rest[_HEADER - 1]]
        size = _HEADER + len(segments) + sum(segments)
        return size if len(self._rest) >= size else 0

    def _audio_s(self, page: bytes) -> float:
        at = _HEADER + page[_HEADER - 1]
        total_ms = 0.0
        begins = not self._open_packet
        for segment in page[_HEADER:at]:
            if begins:
                total_ms += packet_ms(page[at : at + segment])
            begins = segment < 255
            at += segment
        self._open_packet = not begins
        return total_ms / 1000


def packet_ms(packet: bytes) -> float:
    """How long an Opus packet lasts, from its first bytes; headers and empty packets last no time."""
    if not packet or packet[:8] in (b"OpusHead", b"OpusTags"):
        return 0.0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame_ms = _SILK_MS[config & 3]
    elif config < 16:
        frame_ms = _HYBRID_MS[config & 1]
    else:
        frame_ms = _CELT_MS[config & 3]
    frames = 1 if code == 0 else 2 if code < 3 else packet[1] & 63 if len(packet) > 1 else 0
    return min(frames * frame_ms, _MAX_PACKET_MS)
