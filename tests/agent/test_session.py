"""agent/session.py, agent/served_model.py and agent/local_worker.py with a real worker process of the echo model."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from agent.facilities import Facilities
from agent.local_worker import LocalWorker
from agent.served_model import ServedModel
from agent.session import Session
from config.agent_schema import AgentConfig
from config.audio import FRAME_S, FRAME_SAMPLES
from config.schema import ModelSettings
from model_runtime.errors import NoFreeSlot
from telephony.call import CallState, Frame
from telephony.end_cause import EndCause, EndResult
from tests.agent.line import ScriptedCall
from tests.agent.rig import facilities, make_session


class Echo:
    """The echo model in a worker process of its own, and what the gateway knows of it."""

    def __init__(self) -> None:
        self.worker = LocalWorker("echo", ModelSettings(kind="echo", slots=2), "info")
        self.model = ServedModel("echo", [self.worker.url])

    async def until_healthy(self, healthy: bool) -> None:
        """Wait until the health that was probed is ``healthy``."""
        async with asyncio.timeout(30):
            while self.model.healthy is not healthy:
                await asyncio.sleep(0.02)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """A running echo model."""
    echo = Echo()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(echo.worker.run()), tasks.create_task(echo.model.watch())]
        await echo.until_healthy(True)
        yield echo
        for task in running:
            task.cancel()


@pytest.fixture
async def to(tmp_path: Path) -> AsyncIterator[Facilities]:
    """A store, a recorder and events, in the test's folder."""
    async with facilities(tmp_path) as opened:
        yield opened


def make(echo: Echo, call: ScriptedCall, to: Facilities, **agent: object) -> Session:
    """Build a session on a freshly leased slot."""
    return make_session(to, call, AgentConfig.model_validate({"model": "echo", **agent}), echo.model.lease())


def noise(seed: int) -> Frame:
    """A frame that is like no other."""
    return np.random.default_rng(seed).integers(-8000, 8000, FRAME_SAMPLES).astype(np.int16)


async def test_the_caller_hears_what_the_model_says_until_he_hangs_up(echo: Echo, to: Facilities) -> None:
    """Every frame said comes back whole, and the peer's BYE is the cause."""
    call = ScriptedCall()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        life = tasks.create_task(make(echo, call, to).run())
        await call.confirmed.wait()
        for i in range(10):
            call.say(noise(i))
            assert np.array_equal(await call.played.get(), noise(i))
        call.hangup(EndCause.peer_hung_up())
    assert life.result() == EndCause.peer_hung_up()


async def test_ringing_comes_before_the_answer(echo: Echo, to: Facilities) -> None:
    """An agent that answers late leaves the caller ringing."""
    call = ScriptedCall()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(make(echo, call, to, answer_after_s=0.3).run())
        await asyncio.sleep(0.1)
        assert call.state is CallState.EARLY
        await call.confirmed.wait()
        call.hangup(EndCause.peer_hung_up())


async def test_the_maximum_duration_ends_the_call(echo: Echo, to: Facilities) -> None:
    """A call that has had its time is hung up with that as its reason."""
    call = ScriptedCall()
    async with asyncio.timeout(20):
        cause = await make(echo, call, to, max_duration_s=0.3).run()
    assert cause == EndCause.hung_up("maximum duration reached")


async def test_no_more_leases_than_slots(echo: Echo) -> None:
    """A model with two slots leases two, and again once one is released."""
    first = echo.model.lease()
    second = echo.model.lease()
    with pytest.raises(NoFreeSlot):
        echo.model.lease()
    first.release()
    first.release()
    assert echo.model.free_slots == 1
    third = echo.model.lease()
    second.release()
    third.release()


async def test_a_lost_model_is_silence_then_the_conversation_goes_on(echo: Echo, to: Facilities) -> None:
    """A kill -9 of the model worker in mid-call costs audio for less than 10 s, never the call."""
    call = ScriptedCall()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(make(echo, call, to).run())
        await call.confirmed.wait()
        call.say(noise(0))
        await call.played.get()
        assert echo.worker.pid is not None
        os.kill(echo.worker.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while call.played.empty():
                call.say(noise(1))
                await asyncio.sleep(FRAME_S)
        assert np.array_equal(call.played.get_nowait(), noise(1))
        assert call.state is CallState.CONFIRMED
        call.hangup(EndCause.peer_hung_up())


async def test_a_model_that_is_gone_before_the_answer_refuses_the_call(to: Facilities) -> None:
    """A session whose model cannot be opened ends as busy, with a SIP status to try again."""
    call = ScriptedCall()
    model = ServedModel("echo", ["ws://127.0.0.1:9"])
    model._workers[0].healthy, model._workers[0].slots = True, 1
    session = make_session(to, call, AgentConfig(model="echo"), model.lease())
    async with asyncio.timeout(20):
        cause = await session.run()
    assert (cause.result, cause.sip_status) == (EndResult.REJECTED, 503)
