"""The engine: one thread that steps a model for every slot that has a frame, as soon as it has one.

The event loop opens, feeds and releases slots; the engine thread alone touches the model. What a step gave goes back
to the loop in one call for all slots.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from config.audio import FRAME_S, FRAME_SAMPLES
from model_runtime.engine.model import Beginning, Model, Samples, SamplingOptions, StepOutput
from model_runtime.engine.slot import MAX_FORCED_TEXTS, HeardFrame, Slot, SlotStep, Tenant
from model_runtime.engine.step_times import StepTimes
from model_runtime.errors import NoFreeSlot, ProtocolError

log = logging.getLogger(__name__)

_FAILURES_IN_A_ROW: Final = 3
"""After so many steps failed one after the other the model is beyond help (a CUDA error never goes away)."""
_BEGINNING_SHARE: Final = 0.25
"""Of a step's budget: what beginnings may take between two steps."""
_STALLED_S: Final = 1.0
"""A step that runs longer than this takes no newcomers, whatever the p99 of the finished ones."""

Batch = list[tuple[Slot, HeardFrame]]


class Engine:
    """Slots, and the thread that steps them. ``start`` and everything else but ``step`` belongs to the event loop."""

    def __init__(
        self,
        model: Model,
        *,
        budget_s: float = FRAME_S,
        times: StepTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._budget_s = budget_s
        self._clock = clock
        self._slots: list[Slot | None] = [None] * model.slots
        self._due: dict[Slot, None] = {}  # slots with a reset or a frame to do, first come first
        self._beginnings: dict[Slot, Iterator[None]] = {}  # the engine thread's own
        self._work = threading.Condition()
        self._closing = False
        self._failures = 0
        self._stepping_since: float | None = None
        self._last_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.stopped = asyncio.Event()
        """Set when the model is beyond help; the process should end and be started anew."""
        self.times = times or StepTimes()
        self.frames_dropped = 0
        """Frames that never reached a step, because newer ones waited behind them."""
        self.frames_late = 0
        """Frames whose step ended more than the budget after they came."""

    def start(self) -> None:
        """Start the thread; results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Let the thread end after the step it is in; idempotent, returns at once."""
        with self._work:
            self._closing = True
            self._work.notify()

    async def wait_closed(self) -> None:
        """Wait until the thread has ended."""
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    @property
    def slots(self) -> int:
        """How many conversations fit."""
        return len(self._slots)

    @property
    def free(self) -> int:
        """How many slots have no tenant."""
        return self._slots.count(None)

    @property
    def caller_text_delay_s(self) -> float:
        """By so much the caller's text lags his audio; 0 where none comes."""
        return self._model.caller_text_delay_s

    @property
    def p99_s(self) -> float | None:
        """The 99th percentile of recent steps, s; None where too few were made."""
        return self.times.p99_s(self._clock())

    @property
    def slow(self) -> bool:
        """Whether the steps take longer than the frames they are for."""
        since = self._stepping_since
        if since is not None and self._clock() - since > _STALLED_S:
            return True
        p99 = self.p99_s
        return p99 is not None and p99 > self._budget_s

    def open(
        self,
        sampling: SamplingOptions,
        seed: int,
        tenant: Tenant,
        *,
        beginning: Beginning | None = None,
        on_begun: Callable[[], None] | None = None,
    ) -> Slot:
        """Give ``tenant`` a slot, fresh for a new conversation; raises ``NoFreeSlot`` with the reason.

        With a ``beginning`` the slot is stepped once that is done, and ``on_begun`` is called on the event loop then.
        What is wrong with it comes as the tenant's failure.
        """
        if self._closing:
            raise NoFreeSlot("the engine has stopped")
        if self.slow:
            raise NoFreeSlot(f"the model is too slow: a step exceeds {self._budget_s * 1000:.0f} ms")
        with self._work:
            row = next((row for row, slot in enumerate(self._slots) if slot is None), None)
            if row is None:
                raise NoFreeSlot(f"all {self.slots} slots are taken")
            self._last_id += 1
            slot = Slot(self._last_id, row, sampling, seed, tenant, beginning, on_begun)
            self._slots[row] = slot
            self._due[slot] = None
            self._work.notify()
        return slot

    def push(self, slot: Slot, audio: Samples, captured_at: float) -> None:
        """Queue a frame, ``int16 [1920]``, for the slot's next step; ignored when the slot is no more."""
        frame = HeardFrame(audio, captured_at, self._clock())
        with self._work:
            if self._slots[slot.row] is not slot:
                return
            if not slot.push(frame):
                self.frames_dropped += 1
            self._due[slot] = None
            self._work.notify()

    def force(self, slot: Slot, text: str) -> None:
        """Let the slot say ``text`` soon, and no longer wait; raises ``ProtocolError`` where too many wait already."""
        with self._work:
            if len(slot.forced) >= MAX_FORCED_TEXTS:
                raise ProtocolError(f"force: {MAX_FORCED_TEXTS} texts wait already")
            slot.forced.append(text)

    def release(self, slot: Slot) -> None:
        """Free the slot, at once and even in the midst of its step; idempotent."""
        with self._work:
            if self._slots[slot.row] is slot:
                self._slots[slot.row] = None
            self._due.pop(slot, None)

    def step(self) -> None:
        """Wait until a slot has something to do, and do it; raises whatever the model raises."""
        newcomers, batch = self._gather()
        self._reset(newcomers)
        if batch:
            started_at = self._clock()
            output = self._advance(batch)
            self._scatter(batch, output, started_at)
        if self._beginnings:
            self._go_on_beginning()

    def _gather(self) -> tuple[list[Slot], Batch]:
        """Take one frame of every slot that has one; a slot with a second frame stays due."""
        with self._work:
            self._work.wait_for(lambda: self._due or self._beginnings or self._closing)
            due, self._due = self._due, {}
            newcomers = [slot for slot in due if slot.fresh]
            batch = [(slot, slot.pop()) for slot in due if slot.waiting and slot.begun]
            self._due.update({slot: None for slot, _ in batch if slot.waiting})
        return newcomers, batch

    def _reset(self, newcomers: list[Slot]) -> None:
        for slot in newcomers:
            if slot.beginning is None:
                self._model.reset(slot.row, slot.sampling, slot.seed)
            else:
                self._beginnings[slot] = self._model.begin(slot.row, slot.sampling, slot.seed, slot.beginning)
            slot.fresh = False

    def _go_on_beginning(self) -> None:
        """Do pieces of the oldest beginning: one at least, and no more than the next step can wait for."""
        until = self._clock() + _BEGINNING_SHARE * self._budget_s
        while self._beginnings:
            self._do_piece(*next(iter(self._beginnings.items())))
            if self._clock() >= until:
                break

    def _do_piece(self, slot: Slot, pieces: Iterator[None]) -> None:
        if self._slots[slot.row] is slot:
            try:
                next(pieces)
                return
            except StopIteration:
                self._call_loop(self._on_begun, slot)
            except Exception as error:  # a prompt or a past that is no good is this tenant's own affair
                log.warning("engine.beginning_failed id=%d: %r", slot.id, error)
                self.release(slot)
                self._call_loop(slot.tenant.on_failure, error)
        del self._beginnings[slot]
        with self._work:
            slot.begun = True
            if slot.waiting and self._slots[slot.row] is slot:
                self._due[slot] = None

    def _on_begun(self, slot: Slot) -> None:
        """Tell that a slot has begun, on the event loop, unless it was released meanwhile."""
        if self._slots[slot.row] is slot and slot.on_begun is not None:
            slot.on_begun()

    def _advance(self, batch: Batch) -> StepOutput:
        """Run the model once over the batch."""
        audio = np.zeros((self.slots, FRAME_SAMPLES), np.int16)  # [B, 1920]
        mask = np.zeros(self.slots, np.bool_)  # [B]
        for slot, frame in batch:
            audio[slot.row] = frame.audio
            mask[slot.row] = True
            while slot.forced:
                self._model.force(slot.row, slot.forced.popleft())
        self._stepping_since = self._clock()
        try:
            return self._model.step(audio, mask)
        finally:
            self._stepping_since = None

    def _scatter(self, batch: Batch, output: StepOutput, started_at: float) -> None:
        """Send each slot's part to the event loop, all of them in one call."""
        done_at = self._clock()
        self.times.record(done_at - started_at, done_at)
        self._failures = 0
        results = []
        for slot, heard in batch:
            row, number = slot.row, slot.steps
            slot.steps += 1
            self.frames_late += done_at - heard.received_at > self._budget_s
            step = SlotStep(
                number=number,
                heard=heard,
                audio=output.audio[row],
                text=output.text[row],
                tokens=output.tokens[row],
                started_at=started_at,
                done_at=done_at,
                scripted=bool(output.scripted[row]),
                caller_text=output.caller_text[row],
            )
            results.append((slot, step))
        self._call_loop(self._deliver, results)

    def _deliver(self, results: list[tuple[Slot, SlotStep]]) -> None:
        """Hand out results, on the event loop; those of a slot released meanwhile are no one's."""
        for slot, result in results:
            if self._slots[slot.row] is slot:
                slot.tenant.on_step(result)

    def _run(self) -> None:
        """Step until closed; the engine thread's life."""
        while not self._closing:
            try:
                self.step()
            except Exception as error:  # the model may raise anything, and no caller may hang for it
                log.exception("engine.step_failed")
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Put every tenant out: what a failed step has left in the rows is unknown."""
        self._failures += 1
        with self._work:
            tenants = [slot.tenant for slot in self._slots if slot is not None]
            self._slots = [None] * len(self._slots)
            self._due.clear()
            self._beginnings.clear()
            if self._failures >= _FAILURES_IN_A_ROW:
                self._closing = True
        for tenant in tenants:
            self._call_loop(tenant.on_failure, error)
        if self._failures >= _FAILURES_IN_A_ROW:
            log.critical("engine.stopped: %d steps failed in a row", self._failures)
            self._call_loop(self.stopped.set)

    def _call_loop(self, callback: Callable[..., object], *args: object) -> None:
        """Have the event loop call; a loop that has closed needs no more results."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)
