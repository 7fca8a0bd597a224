"""A conversation goes on with another model worker where the one before left it, with a greedy tiny Moshi."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import torch

from agent.facilities import Facilities
from agent.local_worker import LocalWorker
from agent.served_model import ServedModel
from config.agent_schema import AgentConfig
from config.audio import FRAME_SAMPLES
from config.schema import ModelSettings
from model_runtime.engine.model import AgentPrompt, Beginning, SamplingOptions
from model_runtime.engine.moshi_model import MoshiModel
from model_runtime.tiny import tiny_moshi
from telephony.call import Frame
from telephony.end_cause import EndCause
from tests.agent.line import ScriptedCall
from tests.agent.rig import facilities, make_session

AGENT = AgentConfig.model_validate(
    {
        "model": "tiny",
        "instructions": "You are Anna.",
        "greeting": "Good morning, this is Anna speaking.",
        "sampling": {"audio_temperature": 0, "text_temperature": 0},
    }
)
BEFORE, AFTER = 25, 15
"""Steps with the first worker and with the second: the greeting lies over both."""


class Call:
    """A session on a scripted line, whose caller says a new frame after each answer."""

    def __init__(self, model: ServedModel, to: Facilities) -> None:
        self.line = ScriptedCall()
        self.to = to
        self.session = make_session(to, self.line, AGENT, model.lease())
        self._random = np.random.default_rng(4)

    @property
    def steps(self) -> int:
        """Steps that were answered, by whichever worker."""
        return self.session._dialogue._history.steps

    async def talk(self, until: int) -> None:
        """Speak until so many steps are done, as long as it takes to find a worker."""
        async with asyncio.timeout(30):
            while self.steps < until:
                before = self.steps
                self.line.say(self._frame())
                for _ in range(50):
                    if self.steps > before:
                        break
                    await asyncio.sleep(0.01)

    def _frame(self) -> Frame:
        return self._random.integers(-8000, 8000, FRAME_SAMPLES).astype(np.int16)

    def tokens(self) -> list[list[int]]:
        """The tokens of all steps."""
        resume = self.session._dialogue._history.resume()
        assert resume is not None
        return np.frombuffer(resume.tokens, "<i4").reshape(-1, 17).tolist()

    def uninterrupted(self) -> list[list[int]]:
        """The tokens that one worker gives, all alone, for what was heard by any step."""
        resume = self.session._dialogue._history.resume()
        assert resume is not None
        heard = np.frombuffer(resume.heard, np.int16).reshape(-1, 1, FRAME_SAMPLES).copy()
        torch.set_num_threads(1)
        model = MoshiModel(*tiny_moshi(1))
        greedy = SamplingOptions(audio_temperature=0, text_temperature=0)
        prompt = AgentPrompt(AGENT.instructions or "", "", AGENT.greeting or "")
        for _ in model.begin(0, greedy, 1, Beginning(prompt)):
            pass
        return [model.step(frame, np.ones(1, np.bool_)).tokens[0].tolist() for frame in heard]


@asynccontextmanager
async def workers(count: int) -> AsyncIterator[tuple[ServedModel, list[LocalWorker]]]:
    """So many worker processes of the tiny Moshi, all healthy."""
    settings = ModelSettings(kind="moshi", checkpoint="random:tiny", slots=2)
    local = [LocalWorker("tiny", settings, "info") for _ in range(count)]
    model = ServedModel("tiny", [each.url for each in local])
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each.run()) for each in local] + [tasks.create_task(model.watch())]
        async with asyncio.timeout(60):
            while not all(worker.healthy for worker in model._workers):
                await asyncio.sleep(0.02)
        yield model, local
        for task in running:
            task.cancel()


@asynccontextmanager
async def talking(model: ServedModel, folder: Path) -> AsyncIterator[Call]:
    """A call that is up, and hung up at the end."""
    async with facilities(folder) as to, asyncio.TaskGroup() as tasks:
        call = Call(model, to)
        tasks.create_task(call.session.run())
        async with asyncio.timeout(20):
            await call.line.confirmed.wait()
        yield call
        call.line.hangup(EndCause.peer_hung_up())


def check(call: Call) -> None:
    """All that was said is what one worker alone would have said, and the transcript has the greeting."""
    tokens = call.tokens()
    assert len(tokens) == BEFORE + AFTER
    assert tokens == call.uninterrupted()
    (transcript,) = call.to.storage.transcripts.glob("*.jsonl")
    words = [json.loads(line).get("text", "") for line in transcript.read_text().splitlines()]
    said = "".join(words).strip()
    assert len(said) > 10
    assert (AGENT.greeting or "").startswith(said[:20]), said


async def test_a_killed_worker_does_not_show_in_what_is_said(tmp_path: Path) -> None:
    """After ``kill -9`` the new process goes on, greeting and all, with the tokens of an uninterrupted conversation."""
    async with workers(1) as (model, (worker,)), talking(model, tmp_path) as call:
        await call.talk(BEFORE)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await call.talk(BEFORE + AFTER)
        check(call)


async def test_a_draining_worker_hands_its_conversations_over(tmp_path: Path) -> None:
    """A worker that is told to stop is left for another one, which goes on with the same tokens; nothing is lost."""
    async with workers(2) as (model, local), talking(model, tmp_path) as call:
        await call.talk(BEFORE)
        left = next(worker for worker in model._workers if worker.leased)
        process = next(worker for worker in local if worker.url == left.url)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        await call.talk(BEFORE + AFTER)
        check(call)
        assert not left.leased
        assert call.to.metrics.model_lost.labels("tiny")._value.get() == 0
