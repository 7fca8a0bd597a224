"""RTP on the wire: tcpdump on the loopback, with the kernel's own times. Needs root or CAP_NET_RAW."""

import asyncio
import os
import signal
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.peers.processes import end
from tests.peers.rtp import Packet, parse

_NANOSECOND_MAGIC = 0xA1B23C4D
_ETHERNET = 14
START_S = 10.0

Streams = dict[tuple[int, int], list[Packet]]
"""RTP packets by (source port, destination port), in the order of the wire."""


@asynccontextmanager
async def capture(path: Path, first_port: int, last_port: int) -> AsyncIterator[None]:
    """Write UDP on the loopback with a port in the given range to ``path`` (pcap) while the context lasts."""
    process = await asyncio.create_subprocess_exec(
        *("tcpdump", "-i", "lo", "-n", "-w", str(path), "-B", "32768", "-s", "400", "--time-stamp-precision=nano"),
        f"udp and portrange {first_port}-{last_port}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_S):
            while b"listening on" not in (line := await process.stderr.readline()):
                if not line:
                    raise RuntimeError("tcpdump does not capture: it needs root or CAP_NET_RAW")
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # lets it write out what it has
        report = await process.stderr.read()
        await end(process)
    if b" 0 packets dropped by kernel" not in b" " + report.replace(b"\n", b" "):
        raise RuntimeError(f"the capture has holes: {report.decode()}")


def streams(path: Path) -> Streams:
    """The RTP streams of a capture on the loopback."""
    data = path.read_bytes()
    (magic,) = struct.unpack_from("<I", data)
    if magic != _NANOSECOND_MAGIC:
        raise ValueError(f"{path}: not a little-endian pcap with nanoseconds")
    found: Streams = defaultdict(list)
    at = 24
    while at + 16 <= len(data):
        seconds, nanoseconds, size, _ = struct.unpack_from("<IIII", data, at)
        record = data[at + 16 : at + 16 + size]
        at += 16 + size
        if record[12:14] != b"\x08\x00" or record[_ETHERNET + 9] != 17:  # IPv4, UDP
            continue
        udp = _ETHERNET + (record[_ETHERNET] & 0x0F) * 4
        source, destination = struct.unpack_from("!HH", record, udp)
        packet = parse(record[udp + 8 :], seconds + nanoseconds * 1e-9)
        if packet is not None:
            found[source, destination].append(packet)
    return dict(found)


def to_port(found: Streams, port: int) -> list[Packet]:
    """What arrived at ``port``, from wherever most of it came."""
    return max((packets for (_, to), packets in found.items() if to == port), key=len, default=[])


def from_port(found: Streams, port: int) -> list[Packet]:
    """What left ``port``, to wherever most of it went."""
    return max((packets for (source, _), packets in found.items() if source == port), key=len, default=[])
