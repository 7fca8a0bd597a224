"""Conversations with the tiny Moshi through a worker process are those of the model itself."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from config.schema import ModelSettings
from model_runtime.engine.model import AgentPrompt, Samples, SamplingOptions
from model_runtime.sampling import Sampling
from model_runtime.tiny import tiny_moshi
from model_runtime.worker.client import open_session
from model_runtime.worker.protocol import Frame, Open, Resume
from tests.model_runtime.worker.process import Inbox, worker_process

FRAMES = 20
TINY = ModelSettings(kind="moshi", checkpoint="random:tiny", slots=2)


def caller(seed: int) -> Samples:
    """What a caller says, int16 [N, 1920]."""
    return np.random.default_rng(seed).integers(-8000, 8000, (FRAMES, 1920), np.int16)


async def converse(url: str, request: Open, audio: Samples) -> list[Frame]:
    """Speak frame by frame, each one after the answer to the one before."""
    inbox = Inbox()
    async with open_session(url, request, on_frame=inbox, timeout_s=10) as session:
        for i, frame in enumerate(audio):
            session.send_audio(frame, 0.0)
            await inbox.wait(i + 1)
    return inbox.frames


def offline(seed: int, audio: Samples) -> tuple[list[tuple[int, ...]], Samples, str]:
    """The same conversation by ``Moshi.step`` alone: tokens, audio int16 [N, 1920], and text."""
    moshi, tokenizer = tiny_moshi(1)
    moshi.reset(0, Sampling(), seed)
    tokens, said, text = [], [], ""
    for frame in audio:
        heard = torch.from_numpy(frame.astype(np.float32) / 32768).view(1, 1, 1920)
        step = moshi.step(heard, torch.ones(1, dtype=torch.bool))
        tokens.append(tuple(step.row[0].tolist()))
        said.append((step.audio[0, 0].numpy() * 32768).round().clip(-32768, 32767).astype(np.int16))
        if step.ready[0]:
            text += tokenizer.piece(int(step.tokens[0, 0]))
    return tokens, np.stack(said), text


def read_dumps(folder: Path) -> list[tuple[dict[str, NDArray[Any]], dict[str, Any]]]:
    """The arrays and the ``session`` of every dump, the oldest first."""
    dumps = []
    for path in sorted(folder.glob("line-*.npz")):
        with np.load(path) as archive:
            arrays = dict(archive)
        dumps.append((arrays, json.loads(str(arrays["session"]))))
    return dumps


async def test_sessions_are_what_the_model_gives_each_alone(tmp_path: Path) -> None:
    """Two simultaneous sessions, and one in a slot that others have used, get what their seeds give offline.

    The dump of each holds what was heard and said.
    """
    seeds = (11, 22, 11)
    async with worker_process(TINY, dump=tmp_path) as worker:
        both = await asyncio.gather(*(converse(worker.url, Open(seed), caller(seed)) for seed in seeds[:2]))
        alone = await converse(worker.url, Open(seeds[2]), caller(seeds[2]))
    for seed, frames in zip(seeds, (*both, alone), strict=True):
        tokens, said, text = offline(seed, caller(seed))
        assert [frame.tokens for frame in frames] == tokens
        assert "".join(frame.text for frame in frames) == text
        heard = np.stack([np.frombuffer(frame.pcm, np.int16) for frame in frames])
        assert np.abs(heard.astype(int) - said).max() <= 1
    assert not np.array_equal(both[0][-1].tokens, both[1][-1].tokens)

    dumps = read_dumps(tmp_path)
    assert len(dumps) == 3
    for seed, frames in zip(seeds[:2], both, strict=True):
        dump, session = next(each for each in dumps if each[1]["open"]["seed"] == seed)
        assert np.array_equal(dump["heard"], caller(seed))
        assert [tuple(row) for row in dump["tokens"].tolist()] == [frame.tokens for frame in frames]
        assert session["text"] == [frame.text for frame in frames]
        assert SamplingOptions(**session["open"]["sampling"]) == SamplingOptions()


async def test_a_resumed_session_goes_on(tmp_path: Path) -> None:
    """Greedy, a session given another's tokens and audio goes on with its steps, and its dump tells its past."""
    audio, done = caller(5), 10
    greedy = SamplingOptions(audio_temperature=0.0, text_temperature=0.0)
    async with worker_process(TINY, dump=tmp_path) as worker:
        whole = await converse(worker.url, Open(1, greedy), audio)
        tokens = np.array([frame.tokens for frame in whole[:done]], "<i4")
        past = Resume(done, tokens.tobytes(), audio[:done].tobytes())
        rest = await converse(worker.url, Open(2, greedy, resume=past), audio[done:])
    assert [(frame.step, frame.tokens, frame.text) for frame in rest] == [
        (frame.step, frame.tokens, frame.text) for frame in whole[done:]
    ]
    for ours, expected in zip(rest, whole[done:], strict=True):
        said, wanted = (np.frombuffer(frame.pcm, np.int16).astype(int) for frame in (ours, expected))
        assert np.abs(said - wanted).max() <= 3
    dump, session = next(each for each in read_dumps(tmp_path) if each[1]["open"]["seed"] == 2)
    assert session["open"]["step"] == done
    assert np.array_equal(dump["past_tokens"], tokens)
    assert np.array_equal(dump["past_heard"], audio[:done])


async def test_a_recorded_greeting_and_the_callers_words_travel(tmp_path: Path) -> None:
    """Over the wire: a wait, the recording that ends it, the marks of its steps, and what the caller said.

    The dump has the recording and the words.
    """
    recording = (np.sin(np.arange(8 * 1_920) / 9) * 8_000).astype("<i2").tobytes()
    prompt = AgentPrompt(greeting="Hello.", greeting_audio=recording, wait=True)
    settings = TINY.model_copy(update={"listener": "random:stt"})
    inbox, spoken = Inbox(), caller(3)
    async with (
        worker_process(settings, dump=tmp_path) as worker,
        open_session(worker.url, Open(1, prompt=prompt), on_frame=inbox, timeout_s=10) as session,
    ):
        assert session.ready is not None
        assert session.ready.caller_text_delay == 0.5
        for i, frame in enumerate(spoken):
            if i == 3:
                session.force("")
            session.send_audio(frame, 0.0)
            await inbox.wait(i + 1)
    marks = [frame.scripted for frame in inbox.frames]
    assert marks == [False] * 3 + [True] * 9 + [False] * 8
    assert "".join(frame.text for frame in inbox.frames[:12]) == " Hello."
    words = [frame.caller_text for frame in inbox.frames]
    assert any(words)
    ((dump, session_record),) = read_dumps(tmp_path)
    assert dump["greeting_audio"].tobytes() == recording
    assert session_record["caller_text"] == words
    assert session_record["open"]["prompt"]["wait"] is True
