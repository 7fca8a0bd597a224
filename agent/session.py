"""One call and the conversation that answers it. Runs on the gateway's event loop."""

import asyncio
import time
from typing import Final

import numpy as np
import structlog

from agent.history import History
from agent.metrics import Metrics
from agent.served_model import Lease
from agent.transcript import Transcript
from config.audio import FRAME_S
from config.schema import AgentConfig
from model_runtime.errors import ModelError, ModelLost, NoFreeSlot, ProtocolError
from model_runtime.worker.client import ModelSession
from model_runtime.worker.protocol import AgentPrompt, Open, SamplingOptions
from model_runtime.worker.protocol import Frame as ModelFrame
from telephony.call import Call, Frame
from telephony.end_cause import EndCause

log = structlog.get_logger(__name__)

_REOPEN_WITHIN_S: Final = 30.0
"""How long a caller is left in silence while a lost model is sought again."""
_REOPEN_PAUSE_S: Final = 0.2


class Session:
    """One call and the conversation that answers it.

    A frame of the caller's audio goes from the line's callback straight into the model session's socket, and the
    model's frame from that socket's callback straight back to the line: no queue and no task lies between.
    When the model's worker is lost, or asks to move, another one goes on where it was (agent/history.py).
    """

    def __init__(
        self, call: Call, agent: AgentConfig, lease: Lease, transcript: Transcript, *, seed: int, metrics: Metrics
    ) -> None:
        self._call = call
        self._agent = agent
        self._lease = lease
        self._transcript = transcript
        self._metrics = metrics
        self._seed = seed
        self._conversation: ModelSession | None = None
        self._history = History()
        self._moving = False
        self._answered_at = 0.0
        self._confirmed = asyncio.Event()

    async def run(self) -> EndCause:
        """Answer, converse until either side ends, and return why it ended."""
        with self._transcript:
            async with asyncio.TaskGroup() as tasks:
                life = tasks.create_task(self._live(), name=f"conversation {self._call.id}")
                cause = await self._call.wait_closed()
                life.cancel()
        return cause

    async def _live(self) -> None:
        """Keep a model at the other end of the call until cancelled."""
        if self._agent.answer_after_s:
            self._call.ring()
            await asyncio.sleep(self._agent.answer_after_s)
        reopen_until: float | None = None
        while True:
            try:
                async with self._lease.open(self._request(), self._on_model_frame) as conversation:
                    reopen_until = None
                    self._conversation = conversation
                    if self._history.steps:
                        log.info("session.resumed", step=self._history.steps)
                    await self._answer()
                    await self._until_over(conversation)
                    if not self._moving:
                        return
                    self._moving = False
                    continue
            except ModelError as error:
                if not self._confirmed.is_set():
                    return self._refuse(error)
                if isinstance(error, ProtocolError):  # another model than before, or a fault of ours: begin anew
                    self._history.forget()
                reopen_until = self._lost(error, reopen_until)
                if time.monotonic() >= reopen_until:
                    self._call.hangup(EndCause.server_error("model lost"))
                    return
            finally:
                self._conversation = None
            await asyncio.sleep(_REOPEN_PAUSE_S)
            self._lease.renew()

    async def _answer(self) -> None:
        """Answer the call; does nothing once it is up."""
        if self._confirmed.is_set():
            return
        self._call.on_frame = self._on_line_frame
        self._call.answer()
        if await self._call.wait_confirmed():
            self._answered_at = time.monotonic()
            self._confirmed.set()

    async def _until_over(self, conversation: ModelSession) -> None:
        """Converse until the call's time is up; raises ``ModelLost`` when the model goes away before."""
        limit_s = self._agent.max_duration_s
        deadline = None if limit_s is None else self._answered_at + limit_s
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                await conversation.wait_closed()
        except TimeoutError:
            self._call.hangup(EndCause.hung_up("maximum duration reached"))

    def _refuse(self, error: ModelError) -> None:
        """Turn the call away before it was answered."""
        busy = isinstance(error, NoFreeSlot | ModelLost)
        cause = EndCause.busy(str(error)) if busy else EndCause.server_error(str(error))
        self._call.hangup(cause)

    def _lost(self, error: ModelError, reopen_until: float | None) -> float:
        """Note that the model is gone in mid-call; return until when it is sought."""
        if reopen_until is not None:
            return reopen_until
        log.warning("session.model_lost", error=str(error))
        self._metrics.model_lost.labels(self._agent.model).inc()
        return time.monotonic() + _REOPEN_WITHIN_S

    def _request(self) -> Open:
        sampling = self._agent.sampling
        agent = self._agent
        return Open(
            seed=self._seed,
            prompt=AgentPrompt(agent.instructions or "", agent.voice or "", agent.greeting or ""),
            resume=self._history.resume(),
            sampling=SamplingOptions(
                audio_temperature=sampling.audio_temperature,
                audio_top_k=sampling.audio_top_k,
                text_temperature=sampling.text_temperature,
                text_top_k=sampling.text_top_k,
            ),
        )

    def _on_line_frame(self, frame: Frame, captured_at: float) -> None:
        """Send 80 ms of the caller's audio to the model."""
        if self._conversation is None:
            self._metrics.frames_dropped.inc()
            return
        self._conversation.send_audio(frame, captured_at)
        self._history.sent(frame, captured_at)
        self._metrics.frame_send.observe(time.monotonic() - captured_at)

    def _on_model_frame(self, frame: ModelFrame) -> None:
        """Play what the model said, and write down its words."""
        self._history.answered(frame)
        if frame.pcm:  # empty where it would have come too late
            self._call.play(np.frombuffer(frame.pcm, np.int16))
        self._metrics.frame_play.observe(time.monotonic() - frame.captured_at)
        self._metrics.frame_step.observe((frame.wait_ms + frame.step_ms) / 1000)
        if frame.text:
            self._transcript.add(frame.step * FRAME_S, "agent", frame.text)
        if self._conversation is not None and self._conversation.draining:
            self._move()

    def _move(self) -> None:
        """The worker has asked to move: go on with another one, as soon as there is one."""
        assert self._conversation is not None
        if self._lease.leave():
            log.info("session.moved", step=self._history.steps)
            self._moving = True
            self._conversation.close()
            self._conversation = None
