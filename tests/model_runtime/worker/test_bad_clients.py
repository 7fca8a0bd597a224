"""Clients that keep silent, do not read or chat nonsense cost the others nothing (see also test_bad_sessions.py)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from config.audio import FRAME_S
from config.schema import ModelSettings
from model_runtime.worker.client import open_session, probe
from model_runtime.worker.protocol import SESSION_PATH, Audio, Open, encode
from tests.model_runtime.worker.kyutai_client import kyutai_client
from tests.model_runtime.worker.process import BOUND_S, Inbox, worker_process

FRAMES = 12
"""Nearly a second."""
SOUND = Audio(np.ones(1920, np.int16).tobytes(), 0.0)

Misbehave = Callable[[str], Awaitable[None]]


@contextlib.asynccontextmanager
async def _session(url: str) -> AsyncIterator[ClientConnection]:
    """A connection that ends without a word."""
    socket = await connect(url + SESSION_PATH, open_timeout=BOUND_S, compression=None, ping_interval=None)
    try:
        yield socket
    finally:
        socket.transport.abort()
        async with asyncio.timeout(BOUND_S):
            await socket.wait_closed()


async def never_reads(url: str) -> None:
    """Sends audio twice as fast as it is spoken and reads nothing."""
    async with _session(url) as socket:
        await socket.send(encode(Open(1)))
        while True:
            await socket.send(encode(SOUND))
            await asyncio.sleep(FRAME_S / 2)


async def sends_nothing(url: str) -> None:
    """Connects, and opens, and says no more."""
    async with _session(url), _session(url) as opened:
        await opened.send(encode(Open(1)))
        await asyncio.Event().wait()


async def chats_garbage(url: str) -> None:
    """Sends noise to Kyutai's route as if it were Ogg/Opus, again and again."""
    noise = np.random.default_rng(1)
    while True:
        async with kyutai_client(url) as client:
            await client.send(b"\x01OggS\0" + noise.bytes(2_000))
            await client.send(b"\x01" + noise.bytes(2_000))
            await client.wait_closed()


async def chats_too_much(url: str) -> None:
    """Sends seconds of Opus at once to Kyutai's route, again and again."""
    while True:
        async with kyutai_client(url) as client:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(40):
                    await client.say(np.zeros(1920, np.float32))
            await client.wait_closed()


@pytest.mark.parametrize("misbehave", [never_reads, sends_nothing, chats_garbage, chats_too_much])
async def test_others_have_their_frames_on_time(misbehave: Misbehave) -> None:
    """With a client that misbehaves beside it, a session's every frame is answered long before the next one is due."""
    inbox, sent, answered = Inbox(), [], []

    def on_frame(frame: object) -> None:
        answered.append(time.monotonic())
        inbox(frame)  # type: ignore[arg-type]

    async with worker_process(ModelSettings(kind="echo", slots=4)) as worker:
        async with open_session(worker.url, Open(seed=1), on_frame=on_frame) as session, asyncio.TaskGroup() as tasks:
            bad = tasks.create_task(misbehave(worker.url), name=misbehave.__name__)
            began = time.monotonic()
            for n in range(FRAMES):
                await asyncio.sleep(max(0.0, began + n * FRAME_S - time.monotonic()))
                sent.append(time.monotonic())
                session.send_audio(np.ones(1920, np.int16), 0.0)
            await inbox.wait(FRAMES)
            assert not bad.done()
            bad.cancel()
        assert session.frames_dropped == 0
        assert all(frame.pcm for frame in inbox.frames)
        assert (await probe(worker.url)).status == "ok"
    delays = sorted(came - went for came, went in zip(answered, sent, strict=True))
    assert delays[FRAMES // 2] < 0.02
    assert delays[-3] < FRAME_S  # the machine is shared: one or two may be late
