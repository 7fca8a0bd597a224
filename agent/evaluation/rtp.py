"""RTP packets (RFC 3550, section 5.1), keys in them (RFC 4733), and what came on the caller's clock. Pure."""

import struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

PACKET_S: Final = 0.02
PACKET_SAMPLES: Final = 160
"""At 8 kHz."""
KEY_PAYLOAD_TYPE: Final = 101
_HEADER: Final = struct.Struct("!BBHII")
_RTCP: Final = range(72, 77)
"""What RTCP's types look like where a payload type is expected (RFC 5761, section 4)."""
_KEYS: Final = "0123456789*#ABCD"
_KEY_PACKETS: Final = 5
_KEY_REPEATS: Final = 3
_KEY_VOLUME: Final = 10
"""-dBm0."""
_JUMP: Final = 3_200
"""Samples by which a stream may be off before it is taken for a new one."""


class Packet(NamedTuple):
    """One packet of audio."""

    payload_type: int
    timestamp: int
    payload: bytes


class Stamp(NamedTuple):
    """What counts up in a stream."""

    ssrc: int
    sequence: int
    timestamp: int


def build(stamp: Stamp, payload_type: int, payload: bytes, *, marker: bool = False) -> bytes:
    """The bytes of a packet."""
    counts = (stamp.sequence & 0xFFFF, stamp.timestamp & 0xFFFFFFFF, stamp.ssrc)
    return _HEADER.pack(0x80, payload_type | marker << 7, *counts) + payload


def parse(data: bytes) -> Packet | None:
    """A packet, whatever its header has beyond the least; None for anything else."""
    if len(data) <= _HEADER.size or data[0] >> 6 != 2 or (data[1] & 0x7F) in _RTCP:
        return None
    first, kind, _, timestamp, _ = _HEADER.unpack_from(data)
    begin = _HEADER.size + 4 * (first & 15)
    if first & 0x10 and len(data) >= begin + 4:  # an extension header
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
    end = len(data) - (data[-1] if first & 0x20 else 0)
    return Packet(kind & 0x7F, timestamp, data[begin:end]) if begin < end else None


def key_events(key: str) -> list[bytes]:
    """The payloads of a key pressed for 100 ms: one every 20 ms, the last three times."""
    code = _KEYS.index(key)
    durations = [(False, number * PACKET_SAMPLES) for number in range(1, _KEY_PACKETS + 1)]
    durations += [(True, _KEY_PACKETS * PACKET_SAMPLES)] * _KEY_REPEATS
    return [struct.pack("!BBH", code, last << 7 | _KEY_VOLUME, duration) for last, duration in durations]


class Inlet:
    """The audio of a stream, laid on the clock of whoever hears it, by its timestamps; what is missing is silence."""

    def __init__(self) -> None:
        self.first_s: float | None = None
        """When the first packet came."""
        self._samples: NDArray[np.int16] = np.zeros(0, np.int16)
        self._end = 0
        self._base: int | None = None  # where timestamp 0 lies, modulo 2**32

    def put(self, at_s: float, timestamp: int, samples: NDArray[np.int16]) -> None:
        """Lay ``samples [n]`` at 8 kHz, which came at ``at_s``, where they belong."""
        here = round(at_s * 8_000)
        if self.first_s is None:
            self.first_s = at_s
        place = here if self._base is None else _signed(timestamp - self._base - here) + here
        if self._base is None or abs(place - here) > _JUMP:
            self._base, place = timestamp - here, here
        end = max(place, 0) + len(samples)
        if end > len(self._samples):
            grown = np.zeros(max(end, 2 * len(self._samples)), np.int16)
            grown[: len(self._samples)] = self._samples
            self._samples = grown
        first = max(0, -place)
        self._samples[max(place, 0) : max(place, 0) + len(samples) - first] = samples[first:]
        self._end = max(self._end, end - first)

    def samples(self, first: int, count: int) -> NDArray[np.int16]:
        """What lies there, ``int16 [count]``, as far as it has come."""
        found = np.zeros(count, np.int16)
        there = self._samples[first : min(first + count, self._end)]
        found[: len(there)] = there
        return found


def _signed(difference: int) -> int:
    """A difference of timestamps, which count modulo 2**32."""
    return (difference + 2**31) % 2**32 - 2**31
