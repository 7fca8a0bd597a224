"""The client's end of a session against far ends that are not what they should be."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from model_runtime.errors import ModelLost, NoFreeSlot, ProtocolError
from model_runtime.worker.client import open_session, probe
from model_runtime.worker.health import WorkerHealth
from model_runtime.worker.protocol import Audio, Close, Error, Frame, Open, Ready, decode_from_client, encode
from tests.model_runtime.worker.process import BOUND_S, Inbox, ended

Talk = Callable[[ServerConnection], Awaitable[None]]
READY = encode(Ready(0, 1, "m"))
FRAME = Frame(bytes(3840), "", 0, (), 0.0, 0.0, 0.0)


@asynccontextmanager
async def far_end(talk: Talk, **options: Any) -> AsyncIterator[str]:
    """A WebSocket server that reads ``open`` and then talks as told."""

    async def converse(connection: ServerConnection) -> None:
        assert isinstance(decode_from_client(await connection.recv(decode=False)), Open)
        await talk(connection)

    async with serve(converse, "127.0.0.1", 0, compression=None, **options) as server:
        host, port = next(iter(server.sockets)).getsockname()
        yield f"ws://{host}:{port}"


async def test_a_frame_out_of_protocol_ends_the_session() -> None:
    """A worker that sends what is not the protocol ends the session with ``ProtocolError``."""

    async def talk(connection: ServerConnection) -> None:
        await connection.send(READY)
        await connection.recv()
        await connection.send(b"nonsense")
        await connection.wait_closed()

    async with far_end(talk) as url, open_session(url, Open(1), on_frame=Inbox()) as session:
        session.send_audio(np.zeros(1920, np.int16), 0.0)
        assert isinstance(await ended(session), ProtocolError)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (encode(FRAME), ProtocolError),  # before ready
        ("text", ProtocolError),
        (encode(Error("no_free_slot", "all taken")), NoFreeSlot),
        (encode(Error("model", "a step failed")), ModelLost),
        (None, ModelLost),  # hangs up
    ],
)
async def test_opening_raises_what_went_wrong(message: bytes | str | None, error: type[Exception]) -> None:
    """What a worker says instead of ready decides what ``open_session`` raises."""

    async def talk(connection: ServerConnection) -> None:
        if message is not None:
            await connection.send(message)
            await connection.wait_closed()

    async with far_end(talk) as url:
        with pytest.raises(error):
            async with open_session(url, Open(1), on_frame=Inbox(), timeout_s=BOUND_S):
                pass


async def test_a_far_end_that_is_no_worker() -> None:
    """An HTTP server without /v1/session raises ``ProtocolError``, in a session and in a probe."""

    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.NOT_FOUND, "nothing here")

    async def talk(connection: ServerConnection) -> None:
        raise AssertionError

    async with far_end(talk, process_request=refuse) as url:
        with pytest.raises(ProtocolError, match="404"):
            async with open_session(url, Open(1), on_frame=Inbox()):
                pass
        with pytest.raises(ProtocolError, match="not a worker"):
            await probe(url)


async def test_opening_has_an_end() -> None:
    """A far end that takes the connection and says nothing raises ``ModelLost`` after ``timeout_s``; so does no one."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ModelLost, match=r"no answer within 0\.05 s"):
            async with open_session(url, Open(1), on_frame=Inbox(), timeout_s=0.05):
                pass
    with pytest.raises(ModelLost):
        async with open_session(url, Open(1), on_frame=Inbox()):
            pass
    with pytest.raises(ModelLost):
        await probe(url)


async def test_audio_that_the_socket_does_not_take_is_dropped() -> None:
    """``send_audio`` never queues more than two frames behind a socket that is full; the others are counted."""
    over = asyncio.Event()

    async def talk(connection: ServerConnection) -> None:
        await connection.send(READY)
        connection.transport.pause_reading()
        await over.wait()
        connection.transport.abort()

    async with far_end(talk) as url, open_session(url, Open(1), on_frame=Inbox()) as session:
        silence = np.zeros(1920, np.int16)
        for _ in range(5000):  # more than the kernel's buffers hold
            session.send_audio(silence, 0.0)
        assert session.frames_dropped > 100
        assert session._transport is not None
        assert session._transport.get_write_buffer_size() < 4 * 3900
        over.set()
        assert isinstance(await ended(session), ModelLost)
        session.send_audio(silence, 0.0)  # after the end: dropped, no error


async def test_closing_is_asked_for_once() -> None:
    """``close`` is idempotent: the worker sees one ``close`` message, then the end of the connection."""
    heard = []

    async def talk(connection: ServerConnection) -> None:
        await connection.send(READY)
        async for message in connection:
            assert isinstance(message, bytes)
            heard.append(decode_from_client(message))
            if isinstance(heard[-1], Close):
                break

    async with far_end(talk) as url:
        async with open_session(url, Open(1), on_frame=Inbox()) as session:
            session.send_audio(np.zeros(1920, np.int16), 3.0)
            session.close()
            session.close()
            assert await ended(session) is None
        session.close()
    assert heard == [Audio(bytes(3840), 3.0), Close()]


async def test_a_worker_that_does_not_close_is_cut_off() -> None:
    """A worker that ignores ``close`` holds the client for a second at most."""

    async def talk(connection: ServerConnection) -> None:
        await connection.send(READY)
        await connection.wait_closed()

    async with far_end(talk) as url, asyncio.timeout(BOUND_S):
        async with open_session(url, Open(1), on_frame=Inbox()) as session:
            pass
        await session.wait_closed()


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"status": "ok"}', b"[" * 100_000, b"\xff"])
def test_health_that_is_none_raises_protocol_error(answer: bytes) -> None:
    """What is not a worker's health raises ``ProtocolError`` and nothing else."""
    with pytest.raises(ProtocolError):
        WorkerHealth.from_json(answer)


def test_health_survives_json() -> None:
    """What /healthz writes is what the probe reads."""
    health = WorkerHealth("slow", "m", 4, 1, 81.5)
    assert WorkerHealth.from_json(health.to_json()) == health
