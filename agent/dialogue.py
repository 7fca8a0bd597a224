"""The model's part of a call: opened, lost and found again, moved, replaced by another agent (gateway's loop).

A frame of the caller's audio goes from the line's callback straight into the model session's socket, and the model's
frame from that socket's callback straight back to the line: no queue and no task lies between.
"""

import asyncio
import contextvars
import functools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, ParamSpec, TypeVar

import numpy as np
import structlog

from agent.generation import Persona
from agent.history import History
from agent.measures.tracing import Part as SpanPart
from agent.metrics import Metrics
from agent.opening import Opening
from agent.served_model import Lease
from config.audio import FRAME_SAMPLES
from model_runtime.errors import ModelError, ModelLost, ProtocolError
from model_runtime.worker.client import ModelSession
from model_runtime.worker.protocol import Frame as ModelFrame
from model_runtime.worker.protocol import Open, SamplingOptions
from telephony.call import Call, Frame

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_REOPEN_PAUSE_S: Final = 0.2
_BEGUN_WITHIN_S: Final = 1.5
"""How long a worker may take to begin a text that it was sent."""
_SETTLED_STEPS: Final = 3
"""So many steps without a script, and all has been said: a text that was just sent is there by then."""
_SILENCE: Final[Frame] = np.zeros(FRAME_SAMPLES, np.int16)


@dataclass(slots=True)
class Part:
    """Who speaks: an agent, its model's slot, and the seed that its tokens are drawn with."""

    persona: Persona
    lease: Lease
    seed: int


class Step(NamedTuple):
    """What the model answered to one frame of the caller's."""

    frame: ModelFrame
    pcm: Frame
    """``int16 [1920]`` at 24 kHz; empty where it would have come too late."""
    position: int
    """Of its first sample among all that were given to ``Call.play``; -1 where it was not."""
    answered_at: float
    """``time.monotonic()`` when it came."""
    caller_lag_s: float
    """By how much ``frame.caller_text`` lags the audio in which it was spoken."""


class _Stay:
    """A stay with one model worker, while it goes on."""

    def __init__(self, url: str, step: int) -> None:
        self._url = url
        self._step = step
        self._began = time.time()

    def over(self, why: str | None) -> SpanPart:
        """The same, ended now."""
        return SpanPart.model_session(self._url, self._began, time.time(), step=self._step, error=why)


def of_this_call(callback: Callable[P, T]) -> Callable[P, T]:
    """The callback in the context of the task that runs now, so that whatever is logged in it names its call."""
    return functools.partial(contextvars.copy_context().run, callback)


class Dialogue:
    """One call's conversation with models, one after another if need be.

    When a model's worker is lost, or asks to move, another one goes on where it was (agent/history.py).
    """

    def __init__(self, call: Call, part: Part, on_step: Callable[[Step], None], metrics: Metrics) -> None:
        """``on_step`` is told of each step once its audio is on its way to the caller."""
        self._call = call
        self._part = part
        self._on_step = on_step
        self._metrics = metrics
        self._opening = Opening(part.persona)
        self._conversation: ModelSession | None = None
        self._history = History()
        self._unsent: deque[str] = deque()
        self._opened = False
        self._given = asyncio.Event()
        self._given.set()
        self._scripted = asyncio.Event()
        self._said = asyncio.Event()
        self._free_steps = 0
        self._caller_lag_s = 0.0
        self.stays: list[SpanPart] = []
        """The conversation's stays with model workers, for the call's trace."""

    @property
    def persona(self) -> Persona:
        """The agent that speaks now."""
        return self._part.persona

    @property
    def withheld(self) -> bool:
        """Whether the caller's audio is withheld from the model: an announcement is being said."""
        return self._opening.withheld

    async def run(self, answer: Callable[[], object]) -> None:
        """Keep a model at the other end until cancelled; ``answer`` is called when the first one is there.

        Raises ``ModelError`` where there is none at the beginning, or none again within ``fallback.lost_after_s``.
        """
        lost_at: float | None = None
        while True:
            stay, why = _Stay(self._part.lease.url, self._history.steps), None
            try:
                async with self._part.lease.open(self._request(), of_this_call(self._on_model_frame)) as conversation:
                    lost_at = None
                    self._begin(conversation)
                    answer()
                    await conversation.wait_closed()
                continue  # closed by us: to move, or for another agent
            except ModelError as error:
                why = str(error)
                if not self._opened:
                    raise
                if isinstance(error, ProtocolError):  # another model than before, or a fault of ours: begin anew
                    self._history.forget()
                lost_at = self._lost(error) if lost_at is None else lost_at
                if time.monotonic() - lost_at >= self.persona.config.fallback.lost_after_s:
                    raise ModelLost("model lost") from error
            finally:
                if self._conversation is not None or why is None:
                    self.stays.append(stay.over(why))
                self._conversation = None
            await asyncio.sleep(_REOPEN_PAUSE_S)
            self._part.lease.renew()

    def say(self, text: str) -> None:
        """Let the model say ``text``, word for word, as soon as it is between two words; also once it is back.

        What comes first in the call, the announcement and the greeting, is said before it.
        """
        self._unsent.append(text)
        self._given.clear()
        self._said.clear()
        self._say_unsent()

    async def said(self, within_s: float) -> bool:
        """Wait until all that was given to say has been said; False where that takes longer, or never began."""
        try:
            async with asyncio.timeout(within_s):
                await self._given.wait()
                async with asyncio.timeout(_BEGUN_WITHIN_S):
                    await self._scripted.wait()
                await self._said.wait()
        except TimeoutError:
            return False
        return True

    def switch(self, part: Part) -> None:
        """Let another agent go on with the call; it begins with its own announcement and greeting."""
        self._part.lease.release()
        self._part = part
        self._opening = Opening(part.persona)
        self._history.forget()
        self._leave()

    def release(self) -> None:
        """Give the model's slot back; idempotent."""
        self._part.lease.release()

    def heard(self, frame: Frame, captured_at: float) -> None:
        """Send 80 ms of the caller's audio to the model, or silence in its place while it is withheld."""
        if self._conversation is None:
            self._metrics.frames_dropped.inc()
            return
        frame = _SILENCE if self._opening.withheld else frame
        self._conversation.send_audio(frame, captured_at)
        self._history.sent(frame, captured_at)
        self._metrics.frame_send.observe(time.monotonic() - captured_at)

    def clock(self, caller_has_spoken: bool) -> None:
        """To be called every 80 ms: a greeting that has waited is said when its time has come."""
        if self._conversation is not None and (text := self._opening.due(caller_has_spoken)) is not None:
            self._conversation.force(text)
        self._say_unsent()

    def _begin(self, conversation: ModelSession) -> None:
        self._conversation = conversation
        self._opened = True
        self._caller_lag_s = conversation.ready.caller_text_delay if conversation.ready else 0.0
        if self._history.steps:
            log.info("session.resumed", step=self._history.steps)
        self._say_unsent()

    def _say_unsent(self) -> None:
        """Give the model what waits to be said, once there is one and nothing else comes before."""
        while self._unsent and self._conversation is not None and not self._opening.pending:
            self._conversation.force(self._unsent.popleft())
        if not self._unsent:
            self._given.set()

    def _request(self) -> Open:
        sampling = self.persona.config.sampling
        return Open(
            seed=self._part.seed,
            prompt=self._opening.prompt,
            resume=self._history.resume(),
            sampling=SamplingOptions(**sampling.model_dump(exclude={"seed"})),
        )

    def _on_model_frame(self, frame: ModelFrame) -> None:
        """Play what the model said, and tell of it."""
        answered_at = time.monotonic()
        self._history.answered(frame)
        pcm = np.frombuffer(frame.pcm, np.int16)
        position = self._call.play(pcm) if pcm.size else -1
        self._metrics.frame_play.observe(time.monotonic() - frame.captured_at)
        self._metrics.frame_step.observe((frame.wait_ms + frame.step_ms) / 1000)
        self._note_script(frame.scripted)
        self._on_step(Step(frame, pcm, position, answered_at, self._caller_lag_s))
        if self._conversation is not None and self._conversation.draining:
            self._move()

    def _note_script(self, scripted: bool) -> None:
        if self._opening.stepped(scripted):
            log.info("session.announced")
        self._free_steps = 0 if scripted else self._free_steps + 1
        if scripted:
            self._scripted.set()
            self._said.clear()
        elif self._free_steps >= _SETTLED_STEPS and self._scripted.is_set():
            self._scripted.clear()
            self._said.set()

    def _move(self) -> None:
        """The worker has asked to move: go on with another one, as soon as there is one."""
        if self._part.lease.leave():
            log.info("session.moved", step=self._history.steps)
            self._leave()

    def _leave(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None

    def _lost(self, error: ModelError) -> float:
        """Note that the model is gone in mid-call, and when."""
        log.warning("session.model_lost", error=str(error))
        self._metrics.model_lost.labels(self.persona.config.model).inc()
        return time.monotonic()
