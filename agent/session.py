"""One call and the conversation that answers it: its life, its limits, its end. Runs on the gateway's event loop."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from agent.actions.action_runner import Actions
from agent.actions.controls import ControlRefused
from agent.call_log import CallLog
from agent.dialogue import Dialogue, Part, Step, of_this_call
from agent.facilities import Facilities
from agent.limits import SilenceLimits
from agent.playback import play
from config.agent_schema import FallbackSettings
from model_runtime.errors import ModelError, ModelLost, NoFreeSlot
from telephony.call import Call, Frame, LineTime
from telephony.end_cause import EndCause
from telephony.transfer import Transfer

log = structlog.get_logger(__name__)

_FINISH_WITHIN_S: Final = 15.0
"""How long what is being said is let finish before a hang-up."""
_LOOK_S: Final = 0.08
_SETTLED_S: Final = 0.3
"""An agent that has not been heard for so long has finished."""

_PAUSE_STEPS: Final = 5
"""Steps without text (0.4 s) that make a pause."""

FindPart = Callable[[str], Part]
"""Makes another agent ready to go on with the call; raises ``LookupError`` or ``NoFreeSlot``."""


class Session:
    """One call and the conversation that answers it.

    The caller's frame goes to the model first and the model's to the line first; what is kept and measured of them
    comes after, in the same callback.
    """

    def __init__(self, call: Call, part: Part, kept: CallLog, find_part: FindPart, to: Facilities) -> None:
        self.kept = kept
        self.variables = dict(part.persona.config.variables)
        """What ``{NAME}`` stands for in actions' texts."""
        self._call = call
        self._find_part = find_part
        self._dialogue = Dialogue(call, part, self._on_step, to.metrics)
        self._limits = SilenceLimits(part.persona.config)
        self._wordless = 0
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._over = False
        self.actions = Actions(part.persona.config.actions, self, self._tasks, kept.acted, to.http)

    async def run(self) -> EndCause:
        """Answer, converse until either side ends, and return why it ended."""
        try:
            async with self._tasks:
                self._start(self._live(), "conversation")
                cause = await self._call.wait_closed()
                await self.actions.wait_closed()
                self._over = True
                for task in self._running:
                    task.cancel()
        finally:
            self._dialogue.release()
            self.kept.spans.parts += self._dialogue.stays
        return cause

    # What actions and the API may do with the call (agent/actions/controls.py).

    def say(self, text: str) -> None:
        """Let the agent say ``text``, word for word, as soon as it is between two words."""
        self._dialogue.say(text)

    async def said(self) -> None:
        """Wait until all that was given to say has been said, for at most 15 s."""
        await self._dialogue.said(_FINISH_WITHIN_S)

    def hang_up(self, reason: str) -> None:
        """End the call once the agent has finished speaking, within 15 s."""
        self._start(self._finish(EndCause.hung_up(reason)), "hang up")

    async def transfer(self, target: str, within_s: float) -> Transfer:
        """Ask the line's peer to call ``target`` instead; raises ``ControlRefused`` where that is no SIP URI."""
        started = time.monotonic()
        try:
            outcome = await self._call.transfer(target, within_s=within_s)
        except ValueError as error:
            raise ControlRefused(str(error)) from None
        self.kept.transferred(target, outcome, time.monotonic() - started)
        return outcome

    def send_dtmf(self, digits: str) -> None:
        """Press keys at the caller's end; raises ``ValueError`` for others than ``0123456789ABCD*#``."""
        self._call.send_dtmf(digits)

    async def switch_agent(self, name: str) -> None:
        """Let another agent go on with the call; raises ``ControlRefused`` where there is none, or no slot for it."""
        try:
            part = self._find_part(name)
        except (LookupError, NoFreeSlot) as error:
            raise ControlRefused(str(error.args[0])) from None
        self._dialogue.switch(part)
        self.variables.update({**part.persona.config.variables, **self.variables})
        self._limits = SilenceLimits(part.persona.config)
        self.actions.replace(part.persona.config.actions)
        self.kept.switched(part.persona)

    def describe(self) -> dict[str, object]:
        """What a web server that is asked is told of the call."""
        return {**self.kept.describe(), "agent": self._dialogue.persona.name, "variables": dict(self.variables)}

    # The life of the call.

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run ``work`` beside the call, until its end at most; a call that is over does nothing more."""
        if self._over:
            work.close()
            return
        self._running.append(self._tasks.create_task(work, name=f"{name} {self._call.id}"))

    async def _live(self) -> None:
        config = self._dialogue.persona.config
        if config.answer_after_s:
            self.kept.ringing()
            self._call.ring()
            await asyncio.sleep(config.answer_after_s)
        try:
            await self._dialogue.run(self._answer)
        except ModelError as error:
            if self.kept.answered:
                await self._do_without(self._dialogue.persona.config.fallback, error)
            else:
                self._refuse(error)

    def _answer(self) -> None:
        """Answer the call; does nothing once it is up."""
        if self._call.on_frame is None:
            self._call.on_frame = of_this_call(self._on_line_frame)
            self._call.on_dtmf = of_this_call(self._on_key)
            self.kept.answering()
            self._call.answer()
            self._start(self._once_confirmed(), "confirm")

    async def _once_confirmed(self) -> None:
        """Note the answer; hang up when the call's time is up, or what there was to say has been said."""
        if not await self._call.wait_confirmed():
            return
        self.kept.confirmed(self._call.codec)
        persona = self._dialogue.persona
        if persona.closed:
            await self._dialogue.said(within_s=60.0)
            await self._finish(EndCause.hung_up("closed"))
        elif persona.config.max_duration_s is not None:
            await asyncio.sleep(persona.config.max_duration_s)
            self._call.hangup(EndCause.hung_up("maximum duration reached"))

    def _refuse(self, error: ModelError) -> None:
        """Turn the call away before it was answered."""
        busy = isinstance(error, NoFreeSlot | ModelLost)
        self._call.hangup(EndCause.busy(str(error)) if busy else EndCause.server_error(str(error)))

    async def _do_without(self, fallback: FallbackSettings, error: ModelError) -> None:
        """No model can speak with the caller any more."""
        self.kept.alert("model_lost", str(error))
        if fallback.lost == "transfer" and fallback.transfer_to is not None:
            with contextlib.suppress(ControlRefused):
                await self.transfer(fallback.transfer_to, 30.0)
        elif fallback.lost == "message":
            await play(self._call, self._dialogue.persona.message)
        self._call.hangup(EndCause.server_error("model lost"))

    # The media path, and what hangs on it.

    def _on_line_frame(self, frame: Frame, at: LineTime) -> None:
        """Send 80 ms of the caller to the model; then keep, measure and look after the silence."""
        received_at = time.monotonic()
        self._dialogue.heard(frame, at.captured_at)
        self.kept.silence_recording(self._dialogue.withheld)
        self.kept.line(frame, at, received_at)
        self._dialogue.clock(self.kept.measures.caller_has_spoken and not self.kept.measures.caller_speaking)
        if (verdict := self._limits.look(self.kept.measures)) is None:
            return
        match verdict.kind:
            case "say":
                self.say(verdict.text)
            case "alert":
                self.kept.alert("agent_silent", "the agent is not heard")
            case "end":
                self._start(self._give_up(verdict.text), "give up")

    def _on_step(self, step: Step) -> None:
        """Keep what the model said. Its words may set off an action, the last one once a pause shows it is whole."""
        self.kept.model(step)
        if step.frame.text:
            self._wordless = 0
            self.actions.heard(step.frame.text, self.kept.now_s)
        else:
            self._wordless += 1
            if self._wordless == _PAUSE_STEPS:
                self.actions.flush(self.kept.now_s)

    def _on_key(self, key: str) -> None:
        """A key may set off an action."""
        self.kept.pressed(key)
        self.actions.pressed(key, self.kept.now_s)

    async def _give_up(self, goodbye: str) -> None:
        """The caller has been silent for too long."""
        if goodbye:
            self.say(goodbye)
            await self.said()
        await self._finish(EndCause.hung_up("caller silent"))

    async def _finish(self, cause: EndCause) -> None:
        """Hang up once the agent has not been heard for a moment."""
        for _ in range(round(_FINISH_WITHIN_S / _LOOK_S)):
            if self.kept.measures.agent_quiet_s >= _SETTLED_S:
                break
            await asyncio.sleep(_LOOK_S)
        self._call.hangup(cause)
