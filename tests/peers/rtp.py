"""RTP packets (RFC 3550 section 5.1), and what the stream of them says about a line."""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.peers import g711
from tests.peers.audio import Samples

PACKET_S = 0.02
PACKET_SAMPLES = 160  # G.711
_HEADER = struct.Struct("!BBHII")


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet and when it was seen."""

    at: float  # s, on the clock of whoever saw it
    payload_type: int
    sequence: int
    timestamp: int
    payload: bytes


def build(payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, marker: bool = False) -> bytes:
    """Bytes of a packet."""
    fields = (0x80, payload_type | marker << 7, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc)
    return _HEADER.pack(*fields) + payload


def parse(data: bytes, at: float) -> Packet | None:
    """A packet without extensions or contributors; None for anything else (RTCP, noise)."""
    if len(data) <= _HEADER.size or data[0] != 0x80 or 72 <= (data[1] & 0x7F) <= 76:
        return None
    _, kind, sequence, timestamp, _ = _HEADER.unpack_from(data)
    return Packet(at, kind & 0x7F, sequence, timestamp, data[_HEADER.size :])


def gaps(packets: list[Packet]) -> NDArray[np.float64]:
    """Seconds between neighbouring packets; 0.02 each is perfect."""
    return np.diff([packet.at for packet in packets])


def samples(packets: list[Packet]) -> Samples:
    """Audio of a G.711 stream by its timestamps; what is missing is silence."""
    if not packets:
        return np.zeros(0, np.int16)
    offsets = _offsets(packets)
    out = np.zeros(int(offsets.max()) + len(packets[-1].payload), np.int16)
    for packet, offset in zip(packets, offsets, strict=True):
        out[offset : offset + len(packet.payload)] = g711.decode(packet.payload, packet.payload_type)
    return out


def silent(packet: Packet) -> bool:
    """Whether 5 ms or more of a G.711 packet are digital silence, which noise never is."""
    audio = np.abs(g711.decode(packet.payload, packet.payload_type)) <= 8
    run = longest = 0
    for quiet in audio:
        run = run + 1 if quiet else 0
        longest = max(longest, run)
    return longest >= 40


def underruns(packets: list[Packet]) -> int:
    """Packets with silence in them between the first and the last that have none, where the far end sends noise."""
    flags = [silent(packet) for packet in packets]
    sounding = [index for index, flag in enumerate(flags) if not flag]
    return sum(flags[sounding[0] : sounding[-1]]) if sounding else 0


def longest_silence(packets: list[Packet]) -> int:
    """The most packets in a row with silence in them."""
    run = longest = 0
    for packet in packets:
        run = run + 1 if silent(packet) else 0
        longest = max(longest, run)
    return longest


def echo_latencies(sent: list[Packet], returned: list[Packet], window_s: float = 1.0) -> NDArray[np.float64]:
    """Seconds from a sample's packet going out to the same sample coming back, for each returned packet.

    Window by window, cross-correlation finds which part of ``sent`` is heard; the packets' times do the rest. Windows
    in which nothing is recognised (silence) give no figures.
    """
    source, echo = samples(sent).astype(np.float64), samples(returned).astype(np.float64)
    sent_offsets, offsets = _offsets(sent), _offsets(returned)
    sent_at = np.array([packet.at for packet in sent])
    at = np.array([packet.at for packet in returned])
    size = round(window_s * 8000)
    found = []
    for start in range(0, echo.size - size + 1, size):
        window = echo[start : start + size]
        heard_at = float(np.interp(start, offsets, at))
        newest = round(float(np.interp(heard_at, sent_at, sent_offsets))) + size
        oldest = max(0, newest - size - 8000)  # an echo is less than a second old
        stretch = source[oldest:newest]
        if stretch.size <= size or np.abs(window).max() <= 64:
            continue
        n = 1 << (stretch.size + size).bit_length()
        peaks = np.fft.irfft(np.fft.rfft(stretch, n) * np.conj(np.fft.rfft(window, n)), n)[: stretch.size - size + 1]
        lag = int(np.argmax(peaks))
        alike = peaks[lag] / (np.linalg.norm(window) * np.linalg.norm(stretch[lag : lag + size]) + 1e-9)
        if alike < 0.5:
            continue
        inside = (offsets >= start) & (offsets < start + size)
        origin = offsets[inside] - start + oldest + lag
        found.append(at[inside] - np.interp(origin, sent_offsets, sent_at))
    return np.concatenate(found) if found else np.zeros(0)


def _offsets(packets: list[Packet]) -> NDArray[np.int64]:
    stamps = np.array([packet.timestamp for packet in packets], np.uint32)
    return (stamps - stamps[0]).astype(np.int32).astype(np.int64)
