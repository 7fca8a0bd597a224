"""How long the caller waits for his echo, how evenly packets come, and what a call costs.

Denwa with all its processes runs on one core, everything that measures on another. White noise goes out in G.711 on an
exact 20 ms schedule, and all figures about audio come from a capture of the RTP on the wire. Beside it, in the same
run, the same echo through bare pjsua2 (benchmarks/bare_pjsua2_echo.py). Latency includes the 80 ms of framing.

Each number of calls is measured twice: with nothing kept but records, and with everything: stereo recordings (FLAC,
24 kHz), webhooks to a receiver, redaction, and /metrics asked every second.

    python -m benchmarks.echo_path [--calls 1 4 12 32] [--seconds 12]
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.table import machine, markdown
from tests.peers import audio, g711, proc, rtp
from tests.peers.caller import Address, Caller, call
from tests.peers.denwa import Denwa, denwa
from tests.peers.processes import end, free_port
from tests.peers.rtp_capture import Streams, capture, from_port, streams, to_port

PRODUCT_CORE, LOAD_CORE = 0, 1
PIN = ("taskset", "-c", str(PRODUCT_CORE))
BARE_CALLS = 4  # the wheel holds no more in a process
BARE_RTP = 15_000
IDLE_S, SETTLE_S = 3.0, 2.0
LEAST_CALLS = 4
NOISE = g711.encode(audio.noise(-20, 7.3, 8_000, seed=1), 0)
STAGGER_S = 0.037  # so that calls do not all frame at the same moment

HEAD = [
    *("echo through", "calls", "latency ms median", "p99", "gap ms p99", "max", "underruns"),
    *(
        "CPU %",
        "idle %",
        "CPU % per call",
        "memory MB",
        "per call",
        "load's own gap ms p99",
        "max",
        "others on the core %",
    ),
]


@dataclass
class Figures:
    """One row: what so many calls got, and what they cost."""

    latencies: list[float] = field(default_factory=list)  # ms
    gaps: list[float] = field(default_factory=list)  # ms
    load_gaps: list[float] = field(default_factory=list)  # ms
    underruns: int = 0
    idle: float = 0.0  # % of a core
    busy: dict[str, float] = field(default_factory=dict)  # % of a core by kind of process
    others: float = 0.0  # % of the product's core that went to others and to the kernel: high means disturbed
    memory: dict[str, tuple[int, float, float]] = field(default_factory=dict)  # kind: processes, RSS, PSS in MB

    def row(self, name: str, calls: int) -> list[object]:
        """The table's row."""
        pss, busy = sum(each[2] for each in self.memory.values()), sum(self.busy.values())
        return [
            *(name, calls, *_percentiles(self.latencies, 50, 99), *_percentiles(self.gaps, 99, 100), self.underruns),
            *(busy, self.idle, (busy - self.idle) / calls, pss, pss / calls),
            *(*_percentiles(self.load_gaps, 99, 100), self.others),
        ]


def _percentiles(values: list[float], *percents: float) -> list[object]:
    return [float(np.percentile(values, percent)) for percent in percents] if values else ["-"] * len(percents)


Kinds = Callable[[], dict[str, list[int]]]
"""All processes of what is measured, by kind."""


async def measure(
    server: Address, ports: tuple[int, int], kinds: Kinds, calls: int, seconds: float, folder: Path
) -> Figures:
    """Call the echo ``calls`` times at once and measure for ``seconds``.

    A call keeps the latency it began with, so few calls are measured in several rounds, all in one row.
    """
    figures = Figures()
    figures.idle = sum((await _cpu(kinds, IDLE_S)).values())
    rounds = max(1, LEAST_CALLS // calls)
    for _ in range(rounds):
        await _round(figures, server, ports, kinds, calls, seconds, rounds, folder)
    return figures


async def _round(
    figures: Figures,
    server: Address,
    ports: tuple[int, int],
    kinds: Kinds,
    calls: int,
    seconds: float,
    rounds: int,
    folder: Path,
) -> None:
    seconds /= rounds
    wire = folder / "rtp.pcap"
    async with capture(wire, *ports), contextlib.AsyncExitStack() as stack:
        callers = []
        for _ in range(calls):
            callers.append(await stack.enter_async_context(call(server, "echo", NOISE)))
            await asyncio.sleep(STAGGER_S)
        await asyncio.sleep(SETTLE_S)
        first = time.time()
        core_before = proc.core_busy_s(PRODUCT_CORE)
        busy = await _cpu(kinds, seconds)
        core = 100 * (proc.core_busy_s(PRODUCT_CORE) - core_before) / seconds
        figures.others += (core - sum(busy.values())) / rounds
        for kind, percent in busy.items():
            figures.busy[kind] = figures.busy.get(kind, 0.0) + percent / rounds
        last = time.time()
        figures.memory = {kind: _memory(pids) for kind, pids in kinds().items()}
        caller_ports = [each.rtp_port for each in callers]
        _unharmed(callers)
    _analyse(figures, streams(wire), caller_ports, first, last)


def _analyse(figures: Figures, found: Streams, caller_ports: list[int], first: float, last: float) -> None:
    for port in caller_ports:
        sent = from_port(found, port)
        returned = [packet for packet in to_port(found, port) if first <= packet.at <= last]
        if len(returned) < 2:
            raise RuntimeError(f"nothing came back to port {port}")
        figures.latencies += list(rtp.echo_latencies(sent, returned) * 1000)
        figures.gaps += list(rtp.gaps(returned) * 1000)
        figures.load_gaps += list(rtp.gaps([packet for packet in sent if first <= packet.at <= last]) * 1000)
        figures.underruns += rtp.underruns(returned)


def _unharmed(callers: list[Caller]) -> None:
    dropped = sum(caller.ended.is_set() for caller in callers)
    if dropped:
        raise RuntimeError(f"{dropped} calls were dropped")


async def _cpu(kinds: Kinds, seconds: float) -> dict[str, float]:
    """Percent of a core that the processes of each kind use for ``seconds``."""
    groups = kinds()
    before = {kind: sum(map(proc.cpu_s, pids)) for kind, pids in groups.items()}
    started = time.monotonic()
    await asyncio.sleep(seconds)
    share = 100 / (time.monotonic() - started)
    return {kind: share * (sum(map(proc.cpu_s, pids)) - before[kind]) for kind, pids in groups.items()}


def _memory(pids: list[int]) -> tuple[int, float, float]:
    sizes = [proc.memory(pid) for pid in pids]
    return len(pids), sum(rss for rss, _ in sizes), sum(pss for _, pss in sizes)


ALL_KEPT = {"model": "echo", "recording": {"enabled": True, "format": "flac", "sample_rate": 24_000}}


@asynccontextmanager
async def product(folder: Path, calls: int, *, keeping: bool) -> AsyncIterator[Denwa]:
    """Denwa on its core, keeping nothing but records, or everything."""
    sip = {"max_calls": calls}
    if not keeping:
        async with denwa(folder, sip=sip, prefix=PIN) as gateway:
            yield gateway
        return
    async with receiver() as url, asyncio.TaskGroup() as tasks:
        sections = {
            "events": {"webhooks": {"bench": {"url": url, "secret": "0123456789abcdef"}}},
            "privacy": {"redact": ["card_number", "email"]},
        }
        async with denwa(folder, sip=sip, prefix=PIN, agents={"echo": ALL_KEPT}, **sections) as gateway:
            scraping = tasks.create_task(scrape(gateway), name="scrape")
            yield gateway
            scraping.cancel()


async def scrape(gateway: Denwa) -> None:
    """Be Prometheus, but more curious."""
    while True:
        await gateway.metric("denwa_calls_active")
        await asyncio.sleep(1)


@asynccontextmanager
async def receiver() -> AsyncIterator[str]:
    """A web server that takes every event; yields its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line).split()[1])
                await reader.readexactly(length)
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@asynccontextmanager
async def bare_pjsua2() -> AsyncIterator[tuple[Address, Kinds]]:
    """The baseline, running on the product's core."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(*PIN, sys.executable, "-m", "benchmarks.bare_pjsua2_echo", "--port", str(port), "--rtp-first", str(BARE_RTP)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            while (line := await process.stdout.readline()) != b"ready\n":
                if not line:
                    raise RuntimeError("bare pjsua2 does not start")
        yield ("127.0.0.1", port), lambda: {"bare pjsua2": proc.tree(process.pid)}
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await end(process)


async def bench(counts: list[int], seconds: float) -> None:
    """Measure everything and print the tables."""
    rows: list[list[object]] = []
    parts: list[list[object]] = []

    def note(name: str, calls: int, figures: Figures) -> None:
        rows.append(figures.row(name, calls))
        for kind, (processes, rss, pss) in figures.memory.items():
            parts.append([name, calls, kind, processes, figures.busy[kind], rss / processes, pss / processes])

    with tempfile.TemporaryDirectory(prefix="echo-path-") as name:
        async with bare_pjsua2() as (server, kinds):
            ports = (BARE_RTP, BARE_RTP + 200)
            note("bare pjsua2", BARE_CALLS, await measure(server, ports, kinds, BARE_CALLS, seconds, Path(name)))
        for calls, keeping in itertools.product(counts, (False, True)):
            folder = Path(tempfile.mkdtemp(dir=name))
            async with product(folder, calls, keeping=keeping) as gateway:
                figures = await measure(gateway.server, gateway.rtp_ports, gateway.kinds, calls, seconds, folder)
            note("Denwa, all kept" if keeping else "Denwa", calls, figures)
    print(f"Machine: {machine()}. Product on core {PRODUCT_CORE}, load and capture on core {LOAD_CORE}.")
    print(f"White noise in PCMU for {seconds:.0f} s, latency including 80 ms of framing.\n")
    print(markdown(HEAD, rows))
    print("\nMemory is the sum of proportional set sizes (PSS). By kind of process (CPU of all, memory of each):\n")
    print(markdown(["echo through", "calls", "process", "number", "CPU %", "RSS MB", "PSS MB"], parts))


def main() -> None:
    """Parse the command line, keep to the load's core, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="*", default=[1, 4, 12, 32], metavar="N")
    parser.add_argument("--seconds", type=float, default=16.0)
    options = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    gc.disable()  # a collection in the load would be heard as its jitter
    asyncio.run(bench(options.calls, options.seconds))


if __name__ == "__main__":
    main()
