"""A web server that behaves as badly as it is told, on 127.0.0.1. Plain asyncio streams: nothing tidies it up."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


Behaviour = Callable[[Request], str]
"""What to do with a request: see ``WebServer._answer``."""


@dataclass
class WebServer:
    """Remembers every request; ``accepted`` are those it answered with 200."""

    behaviour: Behaviour = lambda request: "200"
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    accepted: list[Request] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def until(self, count: int, within_s: float = 20.0) -> None:
        """Wait until so many were accepted."""
        async with asyncio.timeout(within_s):
            while len(self.accepted) < count:
                await asyncio.sleep(0.01)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(first.split()[1], headers, body)
        self.requests.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(self.behaviour(request), request, writer)
        finally:
            self.at_once -= 1

    async def _answer(self, what: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        """``STATUS [HEADER: VALUE]``, ``json TEXT``, ``slow S``, ``hang``, ``reset``, ``garbage``, ``endless``, ..."""
        kind, _, rest = what.partition(" ")
        if kind == "slow":
            await asyncio.sleep(float(rest))
            kind, rest = "200", ""
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "reset":
            writer.transport.abort()
            return False
        if kind == "garbage":
            writer.write(b"\x00\xff SIP/2.0 200 what?\r\n" * 20)
            await writer.drain()
            return False
        if kind in ("endless", "endless-head"):
            self.accepted.append(request)
            writer.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if kind == "endless" else b"x-a: "))
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        content = rest.encode() if kind == "json" else b"" if kind == "204" else b"{}"
        header = rest + "\r\n" if rest and kind != "json" else ""
        status = "200" if kind == "json" else kind
        if status.startswith("2"):
            self.accepted.append(request)
        writer.write(f"HTTP/1.1 {status} x\r\n{header}content-length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def web_server(behaviour: Behaviour = lambda request: "200", port: int = 0) -> AsyncIterator[WebServer]:
    """Serve on 127.0.0.1 for as long as the context lasts."""
    server = WebServer(behaviour)
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await server.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            connections.discard(task)

    listening = await asyncio.start_server(connected, "127.0.0.1", port)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)
