"""Processes that tests start, and the free ports they are given."""

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path


async def end(process: asyncio.subprocess.Process, within_s: float = 5.0) -> None:
    """See a process of ours out: give it time to go by itself, then end it."""
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def search_path() -> str:
    """PATH, and behind it where Debian keeps PostgreSQL's server: the newest version first."""
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: float(each.parent.name), reverse=True)
    return os.pathsep.join([os.environ["PATH"], *map(str, servers)])


def free_port() -> int:
    """An even port that is free for UDP and TCP on 127.0.0.1, as is the next one for UDP."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = (probe.getsockname()[1] + 1) & ~1
        if all(_is_free(kind, port + offset) for kind, offset in _TAKEN):
            return port


_TAKEN = ((socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, 0), (socket.SOCK_DGRAM, 1))


def _is_free(kind: socket.SocketKind, port: int) -> bool:
    with socket.socket(type=kind) as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False
