"""The worker's end of a Kyutai session, with a scripted client and model, and what a query may say."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

import numpy as np
import pytest
import pytest_asyncio
import sphn

from model_runtime.engine.engine import Engine
from model_runtime.errors import ProtocolError
from model_runtime.worker.kyutai import KyutaiSession, read_query
from model_runtime.worker.outbox import FRESH_FRAMES
from model_runtime.worker.protocol import AgentPrompt, Open, SamplingOptions
from model_runtime.worker.session import Patience
from tests.model_runtime.engine.doubles import BOUND_S, ScriptedModel
from tests.model_runtime.worker.kyutai_client import FRAME


class ScriptedSocket:
    """A client that has said what it will say, and reads while ``reading`` is set.

    Unrealistic in that nothing is buffered between the two ends.
    """

    def __init__(self, *said: bytes) -> None:
        self.query_params: dict[str, str] = {}
        self.received: list[bytes] = []
        self.close_code: int | None = None
        self.reading = asyncio.Event()
        self.reading.set()
        self.incoming: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self._came = asyncio.Event()
        for message in said:
            self.incoming.put_nowait({"type": "websocket.receive", "bytes": message})

    async def receive(self) -> dict[str, object]:
        """What the session reads."""
        return await self.incoming.get()

    async def send_bytes(self, data: bytes) -> None:
        """What the session writes, once the client reads."""
        await self.reading.wait()
        self.received.append(data)
        self._came.set()

    async def wait_received(self, kind: bytes, count: int) -> None:
        """Wait until so many messages of a kind have come."""
        async with asyncio.timeout(BOUND_S):
            while sum(message[:1] == kind for message in self.received) < count:
                self._came.clear()
                await self._came.wait()

    async def close(self, code: int) -> None:
        """The session's close."""
        await self.reading.wait()
        self.close_code = code


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[tuple[Engine, ScriptedModel]]:
    """A running engine with one slot of a scripted model."""
    model = ScriptedModel(1)
    engine = Engine(model)
    engine.start()
    yield engine, model
    engine.close()
    async with asyncio.timeout(BOUND_S):
        await engine.wait_closed()


async def run(engine: Engine, socket: ScriptedSocket, audio_s: float = 30.0) -> None:
    """Run a session to its end."""
    session = KyutaiSession(socket, engine, patience=Patience(audio_s=audio_s))  # type: ignore[arg-type]
    async with asyncio.timeout(BOUND_S):
        await session.run()
    assert engine.free == 1


def spoken(frames: int = 1) -> list[bytes]:
    """Messages of so many frames of silence."""
    writer = sphn.OpusStreamWriter(24_000)
    return [b"\x01" + writer.append_pcm(np.zeros(FRAME, np.float32)) for _ in range(frames)]


async def test_a_client_that_sends_no_audio_is_closed(engine: tuple[Engine, ScriptedModel]) -> None:
    """Messages without audio do not keep a slot."""
    socket = ScriptedSocket(b"\x06", b"\x01")
    await run(engine[0], socket, audio_s=0.01)
    assert socket.received == [b"\x00", b"\x05no audio for 0.01 s"]
    assert socket.close_code == 1008


async def test_a_failed_step_is_told(engine: tuple[Engine, ScriptedModel]) -> None:
    """When the model fails the client learns it at once."""
    engine[1].failures = 1
    socket = ScriptedSocket(*spoken())
    await run(engine[0], socket)
    assert socket.received == [b"\x00", b"\x05a step failed: RuntimeError"]
    assert socket.close_code == 1011


async def test_a_client_that_hangs_up_frees_its_slot(engine: tuple[Engine, ScriptedModel]) -> None:
    """A connection that ends, ends the session, without an error."""
    socket = ScriptedSocket(*spoken())
    socket.incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await run(engine[0], socket)
    assert socket.close_code == 1000
    assert not [message for message in socket.received if message[:1] == b"\x05"]


async def test_audio_for_a_slow_reader_does_not_grow_old(engine: tuple[Engine, ScriptedModel]) -> None:
    """A client that reads late gets every text and the newest frames alone, as one stream that decodes."""
    socket = ScriptedSocket()
    socket.reading.clear()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run(engine[0], socket), name="session")
        for message in spoken(10):
            socket.incoming.put_nowait({"type": "websocket.receive", "bytes": message})
            await engine[1].wait_step_begun()
        socket.reading.set()
        await socket.wait_received(b"\x02", 10)
        socket.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    audio = [message[1:] for message in socket.received if message[:1] == b"\x01"]
    assert 0 < len(audio) <= FRESH_FRAMES + 2
    reader = sphn.OpusStreamReader(24_000)
    assert sum(len(reader.append_bytes(pages)) for pages in audio) == len(audio) * FRAME


def test_a_query_names_the_sampling() -> None:
    """The names are those of Kyutai's backend; unknown ones are ignored, and a top-k of 0 is no limit."""
    query = (
        "text_temperature=0.5&text_topk=0&audio_temperature=0&audio_topk=7&text_seed=3&audio_seed=4"
        "&email=a@b&max_steps=4500&pad_mult=0&repetition_penalty=1.0"
    )
    assert read_query(dict(parse_qsl(query))) == Open(7, SamplingOptions(0.0, 7, 0.5, 1_000_000))


def test_a_query_names_the_persona() -> None:
    """PersonaPlex's clients give the instructions and the file of a voice; here a voice is a name."""
    query = "text_prompt=You+are+polite.&voice_prompt=NATF2.pt&text_seed=0"
    assert read_query(dict(parse_qsl(query))) == Open(0, prompt=AgentPrompt("You are polite.", "NATF2"))
    with pytest.raises(ProtocolError, match="voice"):
        read_query({"voice_prompt": "../secret.pt"})
    with pytest.raises(ProtocolError, match="instructions: expected at most 4000"):
        read_query({"text_prompt": "x" * 5_000})


def test_a_query_may_say_nothing() -> None:
    """Without a word the sampling is Denwa's own, and the seed is new each time."""
    one, other = read_query({}), read_query({"text_seed": "", "audio_topk": ""})
    assert one.sampling == other.sampling == SamplingOptions()
    assert one.seed != other.seed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text_temperature", "nan"),
        ("text_temperature", "-1"),
        ("audio_temperature", "hot"),
        ("audio_topk", "-3"),
        ("audio_topk", "1" * 5000),
        ("text_seed", "0x1"),
    ],
)
def test_a_query_must_make_sense(name: str, value: str) -> None:
    """A value that cannot be is refused with its name."""
    with pytest.raises(ProtocolError, match=f"^{name}: expected"):
        read_query({name: value})
