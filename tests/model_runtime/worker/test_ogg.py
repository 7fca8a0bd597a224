import struct

import numpy as np
import pytest
import sphn
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.errors import ProtocolError
from model_runtime.worker.ogg import OggPages, packet_ms
from model_runtime.worker.ogg_opus import OpusReader, OpusWriter


def page(*packets: bytes) -> bytes:
    """A page with these packets, each shorter than 255 bytes."""
    sizes = bytes(len(packet) for packet in packets)
    return b"OggS\0\0" + struct.pack("<QIIIB", 0, 1, 0, 0, len(sizes)) + sizes + b"".join(packets)


def stream(frames: int = 4) -> bytes:
    """What sphn writes for so many frames of noise."""
    writer = sphn.OpusStreamWriter(24_000)
    noise = np.random.default_rng(1).normal(0, 0.1, (frames, 1920)).astype(np.float32)
    return b"".join(writer.append_pcm(frame) for frame in noise)


@given(st.lists(st.integers(1, 400), max_size=20))
def test_pages_are_found_however_the_stream_is_cut(cuts: list[int]) -> None:
    """The same pages come out whole, in one piece or in many."""
    data, pages, parser = stream(), [], OggPages()
    whole = OggPages().feed(data)
    for size in [*cuts, len(data)]:
        pages += parser.feed(data[:size])
        data = data[size:]
    assert pages == whole


def test_pages_tell_the_length_of_their_audio() -> None:
    """Counted from the packets' first bytes it is what the decoder gives; headers last no time."""
    reader = sphn.OpusStreamReader(24_000)
    lengths = [(found.audio_s, len(reader.append_bytes(found.data)) / 24_000) for found in OggPages().feed(stream())]
    assert [counted for counted, _ in lengths] == [0.0, 0.0] + [0.04] * 8
    assert sum(decoded for _, decoded in lengths) == pytest.approx(4 * 0.08)


@pytest.mark.parametrize(
    ("first", "ms"),
    [
        (b"\x00", 10),  # SILK, narrow band
        (b"\x18", 60),
        (b"\x68", 20),  # hybrid
        (b"\x80", 2.5),  # CELT
        (b"\xf8", 20),
        (b"\xf9", 40),  # two frames
        (b"\xfb\x03", 60),  # three frames
        (b"\x1b\x3f", 120),  # more than a packet may hold
        (b"\xfb", 0),  # cut off
        (b"", 0),
        (b"OpusHead", 0),
    ],
)
def test_packets_tell_their_length(first: bytes, ms: float) -> None:
    """A packet's first bytes say how long it lasts (RFC 6716 section 3.1)."""
    assert packet_ms(first) == ms


def test_a_packet_over_two_pages_counts_once() -> None:
    """A packet that goes on in the next page (RFC 3533 section 5) is audio of the page in which it begins."""
    packet = b"\xf8" + bytes(300)
    begun = b"OggS\0\0" + struct.pack("<QIIIB", 0, 1, 0, 0, 1) + b"\xff" + packet[:255]
    ended = page(packet[255:])
    assert [found.audio_s for found in OggPages().feed(begun + ended + page(b"\xf8"))] == [0.02, 0.0, 0.02]


@pytest.mark.parametrize("data", [b"O!", b"OggS\1", b"OggS\1" + bytes(30), b"RIFF", page(b"\xf8") + b"x"])
def test_other_bytes_are_refused(data: bytes) -> None:
    """Whatever is no page is refused with its first bytes."""
    with pytest.raises(ProtocolError, match="Ogg"):
        OggPages().feed(data)


def test_frames_are_whole_whatever_the_pages_hold() -> None:
    """The reader gives frames of 1,920 samples and keeps the rest for the next page."""
    reader, data = OpusReader(0.0), stream(5)
    frames = [frame for at in range(0, len(data), 100) for frame in reader.append(data[at : at + 100], 0.0)]
    assert [frame.shape for frame in frames] == [(1920,)] * 5
    assert frames[0].dtype == np.int16


def test_audio_may_not_run_ahead_of_time() -> None:
    """Two seconds may come at once, and again as time passes; minutes in small packets are refused undecoded."""
    second = page(*[b"\x18\x00\x00"] * 17)  # 1.02 s
    reader = OpusReader(0.0)
    reader.append(stream(1) + second, 0.0)
    reader.append(second, 0.2)
    reader.append(second, 1.2)
    with pytest.raises(ProtocolError, match="faster than it can have been spoken"):
        reader.append(second, 1.3)


def test_audio_may_catch_up() -> None:
    """What a network held back may come at once, and no more than that."""
    second = page(*[b"\x18\x00\x00"] * 17)  # 1.02 s
    reader = OpusReader(0.0)
    reader.append(stream(1), 0.0)
    for _ in range(8):
        reader.append(second, 7.0)
    with pytest.raises(ProtocolError, match="faster than it can have been spoken"):
        reader.append(page(*[b"\x18\x00\x00"] * 51), 7.0)


def test_a_fast_clock_is_no_fault() -> None:
    """A client whose clock is one percent fast may speak for hours."""
    reader, writer = OpusReader(0.0), OpusWriter()
    reader.append(writer.append(np.zeros(1920, np.int16)), 0.0)
    silence = page(b"\x18\x00\x00")  # 60 ms
    for n in range(6_000):
        reader.append(silence, n * 0.06 / 1.01)
