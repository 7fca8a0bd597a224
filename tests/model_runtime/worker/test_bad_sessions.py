"""Sessions that misbehave against a real worker process: they end alone, and a good one's frames stay on time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import numpy as np
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from config.audio import FRAME_S
from config.schema import ModelSettings
from model_runtime.worker.client import open_session, probe
from model_runtime.worker.protocol import (
    MAX_OPEN_BYTES,
    SESSION_PATH,
    Audio,
    Error,
    Force,
    Frame,
    Open,
    Ready,
    Resume,
    decode_from_worker,
    encode,
)
from tests.model_runtime.worker.process import BOUND_S, WorkerProcess, worker_process

TINY = ModelSettings(kind="moshi", checkpoint="random:tiny", slots=3)
AUDIO = encode(Audio(bytes(3_840), 0.0))
ENDLESS = 20_000


async def garbage(client: ClientConnection) -> None:
    """Bytes that are no message."""
    await client.send(encode(Open(1)))
    await client.send(bytes(range(256)) * 8)


async def wrong_size(client: ClientConnection) -> None:
    """Audio that is no frame."""
    await client.send(encode(Open(1)))
    await client.send(encode(Audio(bytes(3_838), 0.0)))


async def too_much(client: ClientConnection) -> None:
    """A message larger than any."""
    await client.send(encode(Open(1)))
    await client.send(bytes(MAX_OPEN_BYTES + 1))


async def too_fast(client: ClientConnection) -> None:
    """Frames as fast as the socket takes them."""
    await client.send(encode(Open(1)))
    for _ in range(ENDLESS):
        await client.send(AUDIO)


async def too_many_texts(client: ClientConnection) -> None:
    """Texts to be said without end."""
    await client.send(encode(Open(1)))
    for _ in range(100):
        await client.send(encode(Force("And so on and so forth.")))


async def foreign_past(client: ClientConnection) -> None:
    """A past with tokens that the model does not have."""
    tokens = np.full((3_000, 17), 31_999, "<i4").tobytes()
    await client.send(encode(Open(1, resume=Resume(5_000, tokens, bytes(3_840 * 125)))))


async def unknown_voice(client: ClientConnection) -> None:
    """A prompt that asks for a voice that is not there."""
    message = encode(Open(1)).replace(encode_text("voice") + encode_text(""), encode_text("voice") + encode_text("x"))
    await client.send(message)


def encode_text(text: str) -> bytes:
    """A short text in msgpack."""
    return bytes([0xA0 + len(text)]) + text.encode()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def worker() -> AsyncIterator[WorkerProcess]:
    """A worker of three slots of the tiny Moshi."""
    async with worker_process(TINY) as process:
        yield process


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("misbehave", "code", "message"),
    [
        (garbage, "protocol", "not msgpack"),
        (wrong_size, "protocol", "expected 3840 bytes"),
        (too_much, None, None),  # the WebSocket's own limit: closed with 1009
        (too_fast, "too_fast", "faster than it is spoken"),
        (too_many_texts, "protocol", "16 texts wait"),
        (foreign_past, "protocol", "tokens that this model does not have"),
        (unknown_voice, "model", "this worker has no voices"),
    ],
)
async def test_a_bad_session_ends_alone(
    worker: WorkerProcess,
    misbehave: Callable[[ClientConnection], Awaitable[None]],
    code: str | None,
    message: str | None,
) -> None:
    """It is told why and loses its slot; a good one that talks meanwhile misses no frame and waits for none."""
    delays: list[float] = []

    def on_frame(frame: Frame) -> None:
        delays.append(time.monotonic() - frame.captured_at)

    async with asyncio.timeout(BOUND_S), open_session(worker.url, Open(1), on_frame=on_frame) as good:
        async with asyncio.TaskGroup() as tasks:
            bad = tasks.create_task(last_words(worker.url, misbehave))
            frames = 0
            while not bad.done() or frames < 5:
                good.send_audio(np.zeros(1920, np.int16), time.monotonic())
                frames += 1
                await asyncio.sleep(FRAME_S)
        while len(delays) < frames:
            await asyncio.sleep(0.01)
        said = bad.result()
        if code is not None:
            assert isinstance(said, Error)
            assert said.code == code
            assert message is not None
            assert message in said.message
        assert good.frames_dropped == 0
        assert sorted(delays)[len(delays) // 2] < FRAME_S, "a few may be late on a busy machine, not most"
        assert (await probe(worker.url)).free == 2


async def last_words(url: str, misbehave: Callable[[ClientConnection], Awaitable[None]]) -> object:
    """Misbehave until the worker ends the session; its last message."""
    last: object = None
    async with connect(url + SESSION_PATH, compression=None) as client:
        sending = asyncio.ensure_future(misbehave(client))
        try:
            async for data in client:
                assert isinstance(data, bytes)
                if not isinstance(message := decode_from_worker(data), Ready | Frame):
                    last = message
        except ConnectionClosed:
            pass
        sending.cancel()
        with suppress(ConnectionClosed, asyncio.CancelledError):
            await sending
    return last
