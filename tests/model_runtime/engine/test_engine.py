import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from model_runtime.engine.echo import EchoModel
from model_runtime.engine.engine import Engine
from model_runtime.engine.model import AgentPrompt, Beginning, Model, Past, SamplingOptions
from model_runtime.engine.step_times import StepTimes
from model_runtime.errors import NoFreeSlot, ProtocolError
from tests.model_runtime.engine.doubles import BOUND_S, NotingTenant, ScriptedModel, frame

SAMPLING = SamplingOptions()


@asynccontextmanager
async def running(model: Model, **options: Any) -> AsyncIterator[Engine]:
    """An engine whose thread ends with the test."""
    engine = Engine(model, **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
        async with asyncio.timeout(BOUND_S):
            await engine.wait_closed()


async def test_a_frame_comes_back_to_its_own_tenant() -> None:
    """Each tenant gets the steps of its own frames, in order and counted from 0."""
    async with running(EchoModel(2)) as engine:
        tenants = NotingTenant(), NotingTenant()
        slots = [engine.open(SAMPLING, 1, tenant) for tenant in tenants]
        for i in range(10):
            for slot, tenant in zip(slots, tenants, strict=True):
                engine.push(slot, frame(100 * slot.row + i), captured_at=i)
                await tenant.wait_told(i + 1)
        for slot, tenant in zip(slots, tenants, strict=True):
            assert [step.audio[0] for step in tenant.steps] == [100 * slot.row + i for i in range(10)]
            assert [step.number for step in tenant.steps] == list(range(10))
            assert [step.heard.captured_at for step in tenant.steps] == list(range(10))


async def test_slots_that_wait_share_the_next_step() -> None:
    """While a step runs, frames of several slots come; all of them form the next step, and the others are masked."""
    model = ScriptedModel(3)
    async with running(model) as engine:
        tenants = [NotingTenant() for _ in range(3)]
        a, b, c = (engine.open(SAMPLING, 1, tenant) for tenant in tenants)
        model.hold()
        engine.push(a, frame(1), 0)
        await model.wait_step_begun()
        engine.push(b, frame(2), 0)
        engine.push(c, frame(3), 0)
        model.go_on.set()
        for tenant in tenants:
            await tenant.wait_told(1)
        assert model.masks == [(True, False, False), (False, True, True)]


async def test_one_call_to_the_loop_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of all slots of a step go back to the event loop together."""
    model = ScriptedModel(8)
    async with running(model) as engine:
        tenants = [NotingTenant() for _ in range(8)]
        slots = [engine.open(SAMPLING, 1, tenant) for tenant in tenants]
        model.hold()
        engine.push(slots[0], frame(0), 0)
        await model.wait_step_begun()
        for slot in slots:
            engine.push(slot, frame(1), 0)
        calls = []
        loop = asyncio.get_running_loop()
        original = loop.call_soon_threadsafe

        def count(callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.Handle:
            if callback == engine._deliver:
                calls.append(len(args[0]))
            return original(callback, *args, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        model.go_on.set()
        await tenants[0].wait_told(2)
        await tenants[7].wait_told(1)
        assert calls == [1, 8]


async def test_at_most_two_frames_wait() -> None:
    """A third waiting frame pushes the oldest out, and that is counted."""
    model = ScriptedModel(1)
    async with running(model) as engine:
        tenant = NotingTenant()
        slot = engine.open(SAMPLING, 1, tenant)
        model.hold()
        engine.push(slot, frame(0), 0)
        await model.wait_step_begun()
        for i in range(1, 6):
            engine.push(slot, frame(i), 0)
        model.go_on.set()
        await tenant.wait_told(3)
        assert [step.audio[0] for step in tenant.steps] == [0, 4, 5]
        assert slot.dropped == engine.frames_dropped == 3


async def test_a_late_result_never_reaches_the_next_tenant() -> None:
    """A slot released in the midst of its step is no one's; the next tenant of the row begins anew at step 0."""
    model = ScriptedModel(1)
    async with running(model) as engine:
        before, after = NotingTenant(), NotingTenant()
        slot = engine.open(SAMPLING, 1, before)
        model.hold()
        engine.push(slot, frame(1), 0)
        await model.wait_step_begun()
        engine.release(slot)
        successor = engine.open(SAMPLING, 2, after)
        assert successor.row == slot.row
        engine.push(slot, frame(2), 0)  # the tenant before has not heard yet that it is out
        engine.push(successor, frame(3), 0)
        model.go_on.set()
        await after.wait_told(1)
        assert [(step.number, step.audio[0]) for step in after.steps] == [(0, 3)]
        assert before.steps == []
        assert model.resets == [0, 0]
        engine.release(slot)  # releasing once more must not put the successor out
        assert engine.free == 0


async def test_no_more_tenants_than_slots() -> None:
    """``open`` raises ``NoFreeSlot`` when all are taken, and gives a released one again."""
    async with running(EchoModel(2)) as engine:
        first = engine.open(SAMPLING, 1, NotingTenant())
        engine.open(SAMPLING, 1, NotingTenant())
        with pytest.raises(NoFreeSlot, match="all 2 slots"):
            engine.open(SAMPLING, 1, NotingTenant())
        engine.release(first)
        assert engine.free == 1
        assert engine.open(SAMPLING, 1, NotingTenant()).row == first.row


async def test_a_failed_step_hangs_no_one() -> None:
    """When the model raises, every tenant is told and put out, and the engine serves the next ones."""
    model = ScriptedModel(2)
    model.failures = 1
    async with running(model) as engine:
        tenants = NotingTenant(), NotingTenant()
        slot, _ = (engine.open(SAMPLING, 1, tenant) for tenant in tenants)
        engine.push(slot, frame(1), 0)
        for tenant in tenants:
            await tenant.wait_told(1)
            assert [str(error) for error in tenant.failures] == ["scripted failure"]
        assert engine.free == 2
        newcomer = NotingTenant()
        engine.push(engine.open(SAMPLING, 1, newcomer), frame(2), 0)
        await newcomer.wait_told(1)
        assert newcomer.steps[0].audio[0] == 2
        assert not engine.stopped.is_set()


async def test_a_model_beyond_help_stops_the_engine() -> None:
    """After three failed steps in a row the engine says so and takes no one any more."""
    model = ScriptedModel(1)
    model.failures = 3
    async with running(model) as engine:
        for _ in range(3):
            tenant = NotingTenant()
            engine.push(engine.open(SAMPLING, 1, tenant), frame(1), 0)
            await tenant.wait_told(1)
        async with asyncio.timeout(BOUND_S):
            await engine.stopped.wait()
        with pytest.raises(NoFreeSlot, match="stopped"):
            engine.open(SAMPLING, 1, NotingTenant())


class Clock:
    """Time as the test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time, s."""
        return self.now


async def test_a_slow_model_takes_no_newcomers() -> None:
    """A p99 step above the budget refuses new tenants until the slow steps lie behind the window."""
    clock, model, tenant = Clock(), ScriptedModel(2), NotingTenant()
    async with running(model, clock=clock, times=StepTimes(window_s=10, least_steps=3)) as engine:
        slot = engine.open(SAMPLING, 1, tenant)
        for i in range(3):
            model.hold()
            engine.push(slot, frame(i), 0)
            await model.wait_step_begun()
            clock.now += 0.1
            model.go_on.set()
            await tenant.wait_told(i + 1)
        assert engine.p99_s == pytest.approx(0.1)
        assert engine.frames_late == 3
        with pytest.raises(NoFreeSlot, match="too slow"):
            engine.open(SAMPLING, 1, NotingTenant())
        clock.now += 11
        engine.open(SAMPLING, 1, NotingTenant())


async def test_a_step_that_does_not_end_takes_no_newcomers() -> None:
    """A step that has run for more than a second refuses new tenants although no finished step was slow."""
    clock, model = Clock(), ScriptedModel(2)
    async with running(model, clock=clock) as engine:
        tenant = NotingTenant()
        model.hold()
        engine.push(engine.open(SAMPLING, 1, tenant), frame(1), 0)
        await model.wait_step_begun()
        clock.now += 1.1
        with pytest.raises(NoFreeSlot, match="too slow"):
            engine.open(SAMPLING, 1, NotingTenant())
        model.go_on.set()
        await tenant.wait_told(1)
        engine.open(SAMPLING, 1, NotingTenant())


async def test_a_beginning_comes_in_pieces_between_steps() -> None:
    """A slot that begins with a past is stepped, and told so, after its last piece; others are stepped in between."""
    model = ScriptedModel(2)
    model.pieces = 4
    async with running(model, budget_s=0.0) as engine:  # no time for more than one piece between two steps
        talking, beginning = NotingTenant(), NotingTenant()
        slot = engine.open(SAMPLING, 1, talking)
        model.hold()
        engine.push(slot, frame(1), 0)
        await model.wait_step_begun()
        begun = asyncio.Event()
        past = Beginning(past=Past(70, np.zeros((2, 17), np.int32), np.zeros((0, 1920), np.int16)))
        other = engine.open(SAMPLING, 1, beginning, beginning=past, on_begun=begun.set)
        engine.push(other, frame(5), 0)
        engine.push(slot, frame(2), 0)
        model.go_on.set()
        await talking.wait_told(2)
        await beginning.wait_told(1)
        assert begun.is_set()
        pieces = [mask for mask in model.masks if mask[0] == "piece"]
        assert pieces == [("piece", 1, n) for n in range(4)]
        assert model.masks.index((True, False), 1) < model.masks.index(pieces[1]), "the other one did not wait"
        assert model.masks[-1] == (False, True)
        assert [(step.number, step.audio[0]) for step in beginning.steps] == [(70, 5)], "steps are counted on"


async def test_a_beginning_that_cannot_be_is_its_tenants_own_affair() -> None:
    """Its tenant is told and put out, the others go on, and the slot is free."""
    model = ScriptedModel(2)
    model.fault = ProtocolError("no past of this model's")
    async with running(model) as engine:
        talking, beginning = NotingTenant(), NotingTenant()
        slot = engine.open(SAMPLING, 1, talking)
        engine.open(SAMPLING, 1, beginning, beginning=Beginning(AgentPrompt("Be kind.")))
        await beginning.wait_told(1)
        assert beginning.failures == [model.fault]
        assert engine.free == 1
        engine.push(slot, frame(1), 0)
        await talking.wait_told(1)
        assert talking.failures == []


async def test_a_slot_released_in_its_beginning_is_the_next_tenants() -> None:
    """What is left of a beginning is dropped with its slot."""
    model = ScriptedModel(1)
    model.pieces = 3
    async with running(model) as engine:
        before, after = NotingTenant(), NotingTenant()
        told = asyncio.Event()
        slot = engine.open(SAMPLING, 1, before, beginning=Beginning(AgentPrompt("Be kind.")), on_begun=told.set)
        engine.release(slot)
        engine.push(engine.open(SAMPLING, 1, after), frame(3), 0)
        await after.wait_told(1)
        assert [step.number for step in after.steps] == [0]
        assert not told.is_set()
        assert before.steps == before.failures == []


async def test_texts_reach_the_model_before_the_next_step() -> None:
    """What a tenant wants said is handed to the model in order, on its own slot, and not without end."""
    model = ScriptedModel(2)
    async with running(model) as engine:
        tenant = NotingTenant()
        engine.open(SAMPLING, 1, NotingTenant())
        slot = engine.open(SAMPLING, 1, tenant)
        for n in range(16):
            engine.force(slot, str(n))
        with pytest.raises(ProtocolError, match="16 texts wait"):
            engine.force(slot, "one more")
        engine.push(slot, frame(1), 0)
        await tenant.wait_told(1)
        assert model.forced == [(1, str(n)) for n in range(16)]
