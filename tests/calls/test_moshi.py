"""Moshi at the far end of a phone call says exactly what it says offline."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from config.schema import ModelSettings
from model_runtime.engine.model import SamplingOptions
from model_runtime.worker.models import load_model
from telephony.resample import Resampler
from tests.peers import audio
from tests.peers.audio import Match, Samples
from tests.peers.baresip import baresip
from tests.peers.denwa import AGENTS, denwa, start, write_config
from tests.peers.processes import end, free_port
from tests.peers.workers import until_it_answers

pytestmark = pytest.mark.peer("baresip")

MODEL = {"kind": "moshi", "checkpoint": "random:tiny", "slots": 2}
TALK_S = 8.0
LEAST_SNR = 30.0  # dB
AGENT_SEEDS = {"anna": 11, "ben": 22}


@dataclass(frozen=True)
class Conversation:
    """What a model heard and said."""

    heard: Samples  # [N, 1920]
    said: Samples  # [N, 1920]
    tokens: np.ndarray  # int64 [N, 17]
    text: str


def _dumped(folder: Path, seed: int) -> Conversation:
    """The worker's record of the conversation that had this seed."""
    for path in folder.glob("*.npz"):
        with np.load(path) as archive:
            session = json.loads(str(archive["session"]))
            if session["open"]["seed"] == seed:
                return Conversation(archive["heard"], archive["said"], archive["tokens"], "".join(session["text"]))
    raise AssertionError(f"no conversation with seed {seed} was dumped: {list(folder.iterdir())}")


def _offline(heard: Samples, seed: int) -> Conversation:
    """The same model alone with the same audio, frame by frame."""
    model = load_model(ModelSettings.model_validate(MODEL | {"slots": 1}))
    model.reset(0, SamplingOptions(), seed)
    steps = [model.step(frame[None], np.ones(1, np.bool_)) for frame in heard]
    return Conversation(
        heard,
        np.concatenate([step.audio for step in steps]),
        np.concatenate([step.tokens for step in steps]),
        "".join(step.text[0] for step in steps),
    )


@asynccontextmanager
async def _worker(folder: Path) -> AsyncIterator[str]:
    """A model worker of the test's own, which keeps a record of every session; gives its URL."""
    port = free_port()
    home = folder / "worker"
    home.mkdir()
    config = write_config(home, 1, {}, {"tiny": MODEL}, {"only": {"model": "tiny"}})
    command = ("worker", "--config", str(config), "--model", "tiny", "--listen", f"127.0.0.1:{port}")
    dump = ("--dump", str(folder / "dump"))
    process = await start(home / "log", sys.executable, "-m", "agent.cli", *command, *dump)
    try:
        url = f"ws://127.0.0.1:{port}"
        await until_it_answers(url, process, (home / "log").read_text)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await end(process, 10)


async def _talk(agent: str, port: int, folder: Path, seed: int) -> Samples:
    """Call an agent, speak, and return what was heard."""
    speech = audio.chirps(-15, TALK_S + 4, 8_000, seed)
    async with baresip(audio.write_wav(folder / f"{agent}.wav", speech, 8_000), "PCMU") as phone:
        await phone.dial(f"sip:{agent}@127.0.0.1:{port}")
        await asyncio.sleep(TALK_S)
        await phone.hangup()
        await phone.wait_event("CALL_CLOSED")
        return phone.recording()


def _as_line(said: Samples) -> Samples:
    """What a caller would hear of the model's audio on a perfect line of 8 kHz."""
    return Resampler(24_000, 8_000).push(said.reshape(-1))


async def test_callers_hear_what_the_model_says_offline(tmp_path: Path) -> None:
    """Two simultaneous calls each get, over G.711, the audio and the words that the model gives each alone.

    Piece by piece, because where this machine is late the line puts in silence, counts it, and plays what follows that
    much later: pieces in which that happened are excused, all others are equal.
    """
    agents = {name: {"model": "tiny", "sampling": {"seed": seed}} for name, seed in AGENT_SEEDS.items()}
    async with _worker(tmp_path) as url:
        models = {"tiny": MODEL | {"workers": [url]}}
        async with denwa(tmp_path, models=models, agents=AGENTS | agents) as gateway:
            talks = [_talk(name, gateway.sip_port, tmp_path, seed) for name, seed in AGENT_SEEDS.items()]
            recordings = dict(zip(agents, await asyncio.gather(*talks), strict=True))
            calls = {line["called"]: line["call"] for line in await gateway.wait_log("call.started", len(agents))}
            await gateway.wait_records(len(agents))
            disturbances = {
                line["call"]: _disturbances(line) for line in await gateway.wait_log("call over", len(agents))
            }

    for name, seed in AGENT_SEEDS.items():
        dumped = _dumped(tmp_path / "dump", seed)
        alone = _offline(dumped.heard, seed)
        assert np.array_equal(dumped.tokens, alone.tokens), f"{name}: other tokens than alone"

        parts = _matches(_as_line(alone.said), recordings[name])
        equal = [part for part in parts if part.snr >= LEAST_SNR]
        disturbed = disturbances[calls[name]]
        assert len(parts) >= 4 * (TALK_S - 1)
        assert len(parts) - len(equal) <= 2 * disturbed, f"{name}, disturbed {disturbed} times: {parts}"
        assert len(equal) >= len(parts) / 2, f"{name}, disturbed {disturbed} times: {parts}"
        assert all(abs(part.gain) < 0.3 for part in equal), f"{name}: {equal}"

        assert alone.text, "the model said nothing in this call"
        written, spoken = (text.split() for text in (_transcript(tmp_path, calls[name]), alone.text))
        assert " ".join(spoken).startswith(" ".join(written))
        assert len(" ".join(spoken)) - len(" ".join(written)) <= 8, "words are missing in the transcript"


def _matches(said: Samples, recorded: Samples) -> list[Match]:
    """How each quarter of a second of what was said is found in the recording, within 0.2 s of where most of it is."""
    size, around = 2_000, 1_600
    padded = np.pad(recorded, (around, around))
    delay = audio.lag(said, recorded)
    first_heard, last_heard = max(0, -delay), min(said.size, recorded.size - delay)
    found = []
    for first in range(first_heard, last_heard - size + 1, size):
        stretch = padded[first + delay : first + delay + size + 2 * around]
        found.append(audio.match(said[first : first + size], stretch, 8_000))
    return found


def _disturbances(over: dict[str, object]) -> int:
    """How often at most the line had to put in or take out audio, from the log line of the call's end."""
    counts = {name: int(value) for name, value in re.findall(r"(underruns|trimmed)=(\d+)", str(over["stats"]))}
    return counts["underruns"] + -(-counts["trimmed"] // 160)


def _transcript(folder: Path, call_id: str) -> str:
    """The agent's words of a call, from its file."""
    (path,) = (folder / "transcripts").glob(f"*{call_id}*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return "".join(line.get("text", "") for line in lines if line.get("speaker") == "agent")
