"""Kyutai's protocol: real clients of a real worker process."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
import sphn
from numpy.typing import NDArray

from config.schema import ModelSettings
from model_runtime.worker.client import open_session, probe
from model_runtime.worker.protocol import Open
from tests.model_runtime.worker.kyutai_client import FRAME, KyutaiClient, kyutai_client
from tests.model_runtime.worker.process import Inbox, WorkerProcess, worker_process


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    """A worker of two echo slots."""
    async with worker_process(ModelSettings(kind="echo", slots=2)) as process:
        yield process


def voice(pitch: float, seconds: float = 4.0) -> NDArray[np.float32]:
    """Harmonics of a slowly gliding pitch below 4 kHz, as a vowel has them, at -20 dBFS."""
    time = np.arange(int(seconds * 24_000)) / 24_000
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))) / 24_000
    tone = sum(np.sin(k * phase) / k for k in range(1, int(4000 / pitch)))
    return (0.1 * tone / np.sqrt(np.mean(tone**2))).astype(np.float32)


AT_ONCE = 24 * FRAME
"""1.92 s: as much as may be said without waiting for time to pass."""


async def converse(client: KyutaiClient, said: NDArray[np.float32]) -> None:
    """Say it frame by frame, each when the one before was answered."""
    for n, frame in enumerate(said.reshape(-1, FRAME), 1):
        await client.say(frame)
        await client.listen(n * FRAME)


def coded(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """What Opus makes of it, frame by frame."""
    writer, reader = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000)
    return np.concatenate([reader.append_bytes(writer.append_pcm(frame)) for frame in pcm.reshape(-1, FRAME)])


def level(pcm: NDArray[np.float32]) -> float:
    """RMS in dB of full scale, once the codec has begun."""
    return float(10 * np.log10(np.mean(pcm[6 * FRAME :] ** 2)))


async def test_clients_hear_themselves(worker: WorkerProcess) -> None:
    """Two clients at a time hear from an echo, at its level, what Opus twice makes of their own voice, and no more."""
    voices = [voice(pitch)[:AT_ONCE] for pitch in (120, 210)]
    async with kyutai_client(worker.url) as one, kyutai_client(worker.url) as other:
        assert (await probe(worker.url)).free == 0
        async with asyncio.TaskGroup() as tasks:
            for client, said in zip((one, other), voices, strict=True):
                tasks.create_task(converse(client, said), name="converse")
    for client, said in zip((one, other), voices, strict=True):
        in_16_bit = np.clip(np.rint(coded(said) * 32_768), -32_768, 32_767) / np.float32(32_768)
        np.testing.assert_allclose(client.heard, coded(in_16_bit), atol=1e-6)
        assert abs(level(client.heard) - level(said)) < 1.0
        assert not client.errors


async def test_a_client_too_many_is_told(worker: WorkerProcess) -> None:
    """Clients of both protocols share the slots; one too many learns why, with close code 1013 (try again later)."""
    async with (
        kyutai_client(worker.url),
        open_session(worker.url, Open(seed=1), on_frame=Inbox()),
        kyutai_client(worker.url, ready=False) as late,
    ):
        await late.wait_closed()
    assert late.errors == ["all 2 slots are taken"]
    assert late.close_code == 1013


async def test_other_kinds_are_ignored(worker: WorkerProcess) -> None:
    """Handshakes, control, metadata, pings, unknown kinds, empty and text messages change nothing."""
    async with kyutai_client(worker.url) as client:
        for message in (b"\x00" + bytes(8), b"\x03\x00", b'\x04{"a": 1}', b"\x06", b"\xff?", b"", b"\x01", "hello"):
            await client.send(message)
        await client.say(voice(120, 0.08))
        await client.listen(FRAME)
    assert not client.errors


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"RIFF....WAVE", "audio: expected the pages of an Ogg stream"),
        (b"OggS" + bytes(20_000), "a message of 20005 bytes; at most 16384 are allowed"),
        (b"OggS" + bytes(22) + b"\x01\x06OpusHe" + b"OggS" + bytes(22) + b"\x01\x05\xff\xff\xff\xff\xff", "audio: "),
    ],
)
async def test_garbage_ends_one_session_alone(worker: WorkerProcess, payload: bytes, error: str) -> None:
    """Audio that is none is answered with what is wrong and close code 1002; the slot is free, others go on."""
    async with kyutai_client(worker.url) as sane, kyutai_client(worker.url) as client:
        await client.send(b"\x01" + payload)
        await client.wait_closed()
        assert client.close_code == 1002
        assert len(client.errors) == 1
        assert client.errors[0].startswith(error)
        assert (await probe(worker.url)).free == 1
        await converse(sane, voice(120, 0.8))


async def test_too_much_audio_ends_one_session_alone(worker: WorkerProcess) -> None:
    """A client that sends seconds of audio at once is cut off before it costs the others time."""
    async with kyutai_client(worker.url) as sane, kyutai_client(worker.url) as client:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.wait_closed(), name="wait closed")
            for frame in voice(120).reshape(-1, FRAME):
                await client.say(frame)
        assert client.errors == ["audio: it comes faster than it can have been spoken"]
        await converse(sane, voice(120, 0.8))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def moshi() -> AsyncIterator[WorkerProcess]:
    """A worker of two slots of the tiny Moshi."""
    async with worker_process(ModelSettings(kind="moshi", checkpoint="random:tiny", slots=2)) as process:
        yield process


@pytest.mark.asyncio(loop_scope="module")
async def test_moshi_speaks_and_writes(moshi: WorkerProcess) -> None:
    """With a speech model every frame is answered with a frame, and its words come as text."""
    said = np.zeros(AT_ONCE, np.float32)
    texts = []
    for seed in (1, 1, 2):
        async with kyutai_client(moshi.url, f"text_seed={seed}&audio_seed=5&text_temperature=1.5") as client:
            await converse(client, said)
        texts.append(client.text)
        assert np.sqrt(np.mean(client.heard[4 * FRAME :] ** 2)) > 0.01
    assert len(texts[0]) > 3
    assert texts[0] == texts[1] != texts[2]  # a seed gives a conversation again


@pytest.mark.asyncio(loop_scope="module")
async def test_the_handshake_comes_when_the_persona_is_there(moshi: WorkerProcess) -> None:
    """A client with a prompt is told that all is ready once the model has taken it in, or why it cannot."""
    async with kyutai_client(moshi.url, "text_prompt=You+are+polite.&voice_prompt=") as client:
        await converse(client, np.zeros(6 * FRAME, np.float32))
        assert not client.errors
    async with kyutai_client(moshi.url, "voice_prompt=NATF2.pt", ready=False) as client:
        await client.wait_closed()
    assert "NATF2" in client.errors[0]
    assert client.close_code == 1011


async def test_a_bad_query_is_told(worker: WorkerProcess) -> None:
    """What cannot be is answered with its name, and takes no slot."""
    async with kyutai_client(worker.url, "audio_topk=many", ready=False) as client:
        await client.wait_closed()
    assert client.errors == ["audio_topk: expected a whole number from 0 to 1000000"]
    assert client.close_code == 1008
    assert (await probe(worker.url)).free == 2
