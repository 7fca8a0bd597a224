"""A client of Kyutai's protocol, written from what Kyutai published: websockets and sphn, nothing of ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import sphn
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.model_runtime.engine.doubles import BOUND_S

FRAME = 1920


class KyutaiClient:
    """Speaks and listens as moshi.client does, without a sound card; made by ``kyutai_client``."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._writer = sphn.OpusStreamWriter(24_000)
        self._reader = sphn.OpusStreamReader(24_000)
        self.heard: NDArray[np.float32] = np.empty(0, np.float32)
        self.text = ""
        self.errors: list[str] = []
        self.close_code: int | None = None

    async def say(self, pcm: NDArray[np.float32]) -> None:
        """Send a frame of ``[1920]`` samples, -1 .. 1."""
        await self.send(b"\x01" + self._writer.append_pcm(pcm))

    async def send(self, message: bytes | str) -> None:
        """Send a message as it is."""
        await self._socket.send(message)

    async def listen(self, samples: int) -> None:
        """Read until so much has been heard."""
        async with asyncio.timeout(BOUND_S):
            while len(self.heard) < samples:
                self._take(await self._socket.recv())

    async def wait_closed(self) -> None:
        """Read until the server closes."""
        async with asyncio.timeout(BOUND_S):
            try:
                while True:
                    self._take(await self._socket.recv())
            except ConnectionClosed as closed:
                self.close_code = closed.rcvd and closed.rcvd.code

    async def wait_handshake(self) -> None:
        """Wait until the server is ready."""
        async with asyncio.timeout(BOUND_S):
            message = await self._socket.recv()
        assert message == b"\x00", message

    def _take(self, message: bytes | str) -> None:
        assert isinstance(message, bytes)
        kind, payload = message[0], message[1:]
        match kind:
            case 1:
                self.heard = np.concatenate([self.heard, self._reader.append_bytes(payload)])
            case 2:
                self.text += payload.decode()
            case 5:
                self.errors.append(payload.decode())
            case _:
                raise AssertionError(f"a message of kind {kind}")


@asynccontextmanager
async def kyutai_client(
    url: str, query: str = "", *, headers: dict[str, str] | None = None, ready: bool = True
) -> AsyncIterator[KyutaiClient]:
    """A client of the worker at ``ws://host:port``; enters when the server is ready, or at once."""
    async with connect(f"{url}/api/chat?{query}", additional_headers=headers, open_timeout=BOUND_S) as socket:
        client = KyutaiClient(socket)
        if ready:
            await client.wait_handshake()
        yield client
