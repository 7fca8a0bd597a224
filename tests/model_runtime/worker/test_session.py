"""The worker's end of a session, with a scripted WebSocket and a scripted model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from starlette.websockets import WebSocketDisconnect

from model_runtime.engine.engine import Engine
from model_runtime.worker.outbox import FRESH_FRAMES, MAX_MESSAGES
from model_runtime.worker.protocol import (
    AgentPrompt,
    Audio,
    Close,
    Error,
    Force,
    Frame,
    Open,
    Ready,
    WorkerMessage,
    decode_from_worker,
    encode,
)
from model_runtime.worker.session import Patience, WorkerSession
from tests.model_runtime.engine.doubles import BOUND_S, ScriptedModel, frame


class ScriptedWebSocket:
    """A client that says what the test tells it to, and reads while ``reading`` is set.

    Unrealistic in that nothing is buffered between the two ends.
    """

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.received: list[WorkerMessage] = []
        self.close_code: int | None = None
        self.gone = False
        self.reading = asyncio.Event()
        self.reading.set()
        self._came = asyncio.Event()

    def say(self, message: Open | Audio | Force | Close) -> None:
        """Send a message."""
        self.incoming.put_nowait({"type": "websocket.receive", "bytes": encode(message)})

    async def receive(self) -> dict[str, Any]:
        """What the session reads."""
        return await self.incoming.get()

    async def send_bytes(self, data: bytes) -> None:
        """What the session writes, once the client reads."""
        await self.reading.wait()
        if self.gone:
            raise WebSocketDisconnect(1006)
        self.received.append(decode_from_worker(data))
        self._came.set()

    async def close(self, code: int) -> None:
        """The session's close."""
        await self.reading.wait()
        self.close_code = code

    async def wait_received(self, count: int) -> None:
        """Wait until that many messages have come."""
        async with asyncio.timeout(BOUND_S):
            while len(self.received) < count:
                self._came.clear()
                await self._came.wait()


class Bench:
    """A session under test, with both its ends scripted."""

    def __init__(self, slots: int = 1) -> None:
        self.model = ScriptedModel(slots)
        self.engine = Engine(self.model)
        self.client = ScriptedWebSocket()

    async def run(self, **patience: float) -> None:
        """Run the session to its end."""
        session: Any = WorkerSession(
            self.client,  # type: ignore[arg-type]
            self.engine,
            "m",
            patience=Patience(**patience),
            dump_dir=None,
        )
        async with asyncio.timeout(BOUND_S):
            await session.run()


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    """A session of one slot, with a running engine."""
    bench = Bench()
    bench.engine.start()
    yield bench
    bench.model.go_on.set()
    bench.engine.close()
    async with asyncio.timeout(BOUND_S):
        await bench.engine.wait_closed()


AUDIO = Audio(frame(5).tobytes(), 1.5)


async def test_a_conversation(bench: Bench) -> None:
    """Open gets ready, audio gets a frame, close gets a normal closure and frees the slot."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.run(), name="session")
        bench.client.say(Open(1))
        bench.client.say(AUDIO)
        await bench.client.wait_received(2)
        assert bench.engine.free == 0
        bench.client.say(Close())
    ready, answer = bench.client.received
    assert ready == Ready(0, 1, "m", caller_text_delay=0.5)
    assert isinstance(answer, Frame)
    assert (answer.pcm, answer.text, answer.step, answer.captured_at) == (AUDIO.pcm, "<5>", 0, 1.5)
    assert answer.tokens == (0,) * 17
    assert (answer.scripted, answer.caller_text) == (False, "(5)")
    assert bench.client.close_code == 1000
    assert bench.engine.free == 1


async def test_what_is_scripted_is_told(bench: Bench) -> None:
    """A step that the model says was forced is marked in its frame."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.run(), name="session")
        bench.client.say(Open(1))
        for value in (5, -5):
            bench.client.say(Audio(frame(value).tobytes(), 0.0))
            await bench.model.wait_step_begun()
        await bench.client.wait_received(3)
        bench.client.say(Close())
    assert [each.scripted for each in bench.client.received if isinstance(each, Frame)] == [False, True]


async def test_a_wait_and_a_recording_make_a_beginning(bench: Bench) -> None:
    """An ``open`` that asks for no more than that is prepared like a prompt, and an empty text reaches the model."""
    for prompt in (AgentPrompt(wait=True), AgentPrompt(greeting_audio=bytes(4))):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bench.run(), name="session")
            bench.model.begun.clear()
            bench.client.received.clear()
            bench.client.say(Open(1, prompt=prompt))
            await bench.client.wait_received(1)
            bench.client.say(Force(""))
            bench.client.say(AUDIO)
            await bench.client.wait_received(2)
            bench.client.say(Close())
        assert [beginning.prompt for beginning in bench.model.begun] == [prompt]
    assert bench.model.forced == [(0, "")] * 2


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([{"bytes": encode(AUDIO)}], "the first message is open"),
        ([{"text": "open"}], "messages are binary"),
        ([{"bytes": b"\xc1"}], "not msgpack"),
        ([{"bytes": encode(Open(1))}, {"bytes": encode(Open(1))}], "open: the conversation is open already"),
        ([{"bytes": encode(Open(1))}, {"bytes": encode(AUDIO)[:-1]}], "not msgpack"),
    ],
)
async def test_a_message_out_of_protocol_ends_the_session(
    bench: Bench, messages: list[dict[str, Any]], error: str
) -> None:
    """What is not the protocol is answered with what is wrong and close code 1002, and holds no slot."""
    for message in messages:
        bench.client.incoming.put_nowait({"type": "websocket.receive"} | message)
    await bench.run()
    last = bench.client.received[-1]
    assert isinstance(last, Error)
    assert last.code == "protocol"
    assert error in last.message
    assert bench.client.close_code == 1002
    assert bench.engine.free == 1


async def test_a_client_that_does_not_open_is_closed(bench: Bench) -> None:
    """A connection without ``open`` ends."""
    await bench.run(open_s=0.01)
    assert bench.client.received == [Error("idle", "no open within 0.01 s")]
    assert bench.client.close_code == 1008


async def test_a_client_that_sends_no_audio_is_closed(bench: Bench) -> None:
    """A session without audio ends and frees its slot."""
    bench.client.say(Open(1))
    await bench.run(audio_s=0.01)
    assert bench.client.received[-1] == Error("idle", "no audio for 0.01 s")
    assert bench.engine.free == 1


async def test_a_failed_step_is_told(bench: Bench) -> None:
    """When the model fails the client learns it at once."""
    bench.model.failures = 1
    bench.client.say(Open(1))
    bench.client.say(AUDIO)
    await bench.run()
    assert bench.client.received[-1] == Error("model", "a step failed: RuntimeError")
    assert bench.client.close_code == 1011


async def test_a_taken_slot_is_told() -> None:
    """A client beyond the slots learns why, with close code 1013 (try again later)."""
    bench = Bench(slots=0)
    bench.client.say(Open(1))
    await bench.run()
    assert bench.client.received == [Error("no_free_slot", "all 0 slots are taken")]
    assert bench.client.close_code == 1013


async def test_a_client_that_goes_away_frees_its_slot(bench: Bench) -> None:
    """A connection that is lost ends the session, whichever end notices first."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.run(), name="session")
        bench.client.say(Open(1))
        await bench.client.wait_received(1)
        bench.client.gone = True
        bench.client.say(AUDIO)  # its answer finds no one
    assert bench.engine.free == 1
    bench.client.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await bench.run()
    assert bench.engine.free == 1


async def test_audio_for_a_slow_reader_does_not_grow_old(bench: Bench) -> None:
    """A client that reads late gets every text and token, and the audio of the newest frames alone."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.run(), name="session")
        bench.client.say(Open(1))
        await bench.client.wait_received(1)
        bench.client.reading.clear()
        for _ in range(10):
            bench.client.say(AUDIO)
            await bench.model.wait_step_begun()
        bench.client.reading.set()
        await bench.client.wait_received(11)
        bench.client.say(Close())
    frames = [each for each in bench.client.received if isinstance(each, Frame)]
    assert [each.step for each in frames] == list(range(10))
    # the first was on its way already; in the last the step may not have ended when reading began again
    assert 0 < sum(bool(each.pcm) for each in frames) <= FRESH_FRAMES + 2
    assert frames[-1].pcm == AUDIO.pcm
    assert all(each.text == "<5>" for each in frames)


async def test_a_client_that_never_reads_is_cut_off(bench: Bench) -> None:
    """What waits for a client is bounded; one that lets it fill up loses its slot."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.run(), name="session")
        bench.client.say(Open(1))
        await bench.client.wait_received(1)
        bench.client.reading.clear()
        for _ in range(MAX_MESSAGES + 2):
            bench.client.say(AUDIO)
            await bench.model.wait_step_begun()
    assert bench.engine.free == 1
    assert len(bench.client.received) == 1
