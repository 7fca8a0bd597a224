"""A scripted model with the engine's ``step``, and a tenant that notes what it is told."""

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model_runtime.engine.model import Beginning, Samples, SamplingOptions, StepOutput
from model_runtime.engine.slot import SlotStep

BOUND_S = 5.0


class ScriptedModel:
    """Echoes, as the script allows: ``hold`` keeps a step from ending, ``failures`` lets that many steps raise.

    Unrealistic in that its steps take no time of their own and its rows have no state.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.caller_text_delay_s = 0.5
        self.masks: list[tuple[object, ...]] = []
        self.resets: list[int] = []
        self.begun: list[Beginning] = []
        self.forced: list[tuple[int, str]] = []
        self.failures = 0
        self.pieces = 0
        self.fault: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self._entered = threading.Semaphore(0)

    def hold(self) -> None:
        """Keep steps from ending until ``go_on`` is set."""
        self.go_on.clear()

    async def wait_step_begun(self) -> None:
        """Wait until one more step has begun."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=BOUND_S)

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Note the reset."""
        self.resets.append(slot)

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """Note it and begin in ``pieces`` pieces, each of which is noted; the last one may raise ``fault``."""
        self.resets.append(slot)
        self.begun.append(beginning)
        for piece in range(self.pieces):
            self.masks.append(("piece", slot, piece))
            yield
        if self.fault is not None:
            raise self.fault

    def force(self, slot: int, text: str) -> None:
        """Note the text."""
        self.forced.append((slot, text))

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Echo, with the first sample as text and as the caller's, and as scripted where it is negative."""
        self.masks.append(tuple(mask.tolist()))
        self._entered.release()
        assert self.go_on.wait(BOUND_S)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("scripted failure")
        text = [f"<{int(row[0])}>" for row in audio]
        heard = [f"({int(row[0])})" for row in audio]
        return StepOutput(audio, text, np.zeros((self.slots, 17), np.int64), audio[:, 0] < 0, heard)


class NotingTenant:
    """Notes its slot's steps and failures."""

    def __init__(self) -> None:
        self.steps: list[SlotStep] = []
        self.failures: list[Exception] = []
        self._told = asyncio.Event()

    def on_step(self, step: SlotStep) -> None:
        """Note the step."""
        self.steps.append(step)
        self._told.set()

    def on_failure(self, error: Exception) -> None:
        """Note the failure."""
        self.failures.append(error)
        self._told.set()

    async def wait_told(self, times: int) -> None:
        """Wait until it was told of that many steps and failures in all."""
        async with asyncio.timeout(BOUND_S):
            while len(self.steps) + len(self.failures) < times:
                self._told.clear()
                await self._told.wait()


def frame(value: int) -> Samples:
    """A frame that is recognised by its samples' one value."""
    return np.full(1920, value, np.int16)
