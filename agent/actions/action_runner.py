"""An agent's actions in one call: what sets them off, and their runs. On the gateway's event loop."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import httpx
import structlog

from agent.actions.controls import Controls
from agent.actions.keys import Keys
from agent.actions.outcome import ActionOutcome, Result, TriggerKind
from agent.actions.phrases import Match, Phrases
from agent.actions.run import Run, Trigger
from config.actions_schema import Action

log = structlog.get_logger(__name__)

_Ended = tuple[Result, str]

_TRANSFER_ENDS_S: Final = 0.5
"""How long a transfer may take to tell how it went once the call is over; its success is what ended it."""


class ActionRefused(Exception):
    """An action that the API asks for cannot run now; the message says why."""


class UnknownAction(ActionRefused):
    """The agent has no action of this name."""


class Actions:
    """The actions of a call's agent. Each run is a task of ``tasks`` from which no exception escapes.

    ``on_outcome`` is called once per run, also for one that the end of the call cuts short. Of an action there is one
    run at a time; without ``repeat`` one in the whole call, though agents change. Times: seconds on the call's clock.
    """

    def __init__(
        self,
        actions: Sequence[Action],
        controls: Controls,
        tasks: asyncio.TaskGroup,
        on_outcome: Callable[[ActionOutcome], None],
        http: httpx.AsyncClient,
    ) -> None:
        self._controls = controls
        self._tasks = tasks
        self._on_outcome = on_outcome
        self._http = http
        self._transferring = asyncio.Lock()
        self._ran: list[Action] = []
        self._running: dict[str, tuple[asyncio.Task[_Ended], asyncio.Future[ActionOutcome]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.replace(actions)

    @property
    def transferring(self) -> bool:
        """Whether a transfer is under way."""
        return self._transferring.locked()

    def replace(self, actions: Sequence[Action]) -> None:
        """Listen for another agent's actions; runs under way go on."""
        self._actions = {action.name: action for action in actions}
        self._phrases = Phrases(actions)
        self._keys = Keys(actions)
        self._stop_timer()

    def heard(self, piece: str, at_s: float) -> None:
        """Take a piece of the agent's text, forced or its own."""
        if self._phrases and not self._closed:
            self._spoken(self._phrases.heard(piece), at_s)

    def flush(self, at_s: float) -> None:
        """The agent's text pauses, so its last word is complete: to be called when 0.4 s went by without a piece."""
        if self._phrases and not self._closed:
            self._spoken(self._phrases.flush(), at_s)

    def pressed(self, key: str, at_s: float) -> None:
        """Take a key of the caller's, one of ``0123456789ABCD*#``."""
        if self._closed:
            return
        self._stop_timer()
        self._dialled(self._keys.pressed(key, at_s), at_s)

    async def run(self, name: str, at_s: float) -> ActionOutcome:
        """Run an action for the API and wait for its outcome. Raises ``ActionRefused``, ``UnknownAction``.

        Whoever waits may be cancelled; the action goes on.
        """
        action = self._actions.get(name)
        if action is None:
            raise UnknownAction(f"the agent has no action {name!r}")
        if refused := self._refusal(action):
            raise ActionRefused(f"{name} {refused}")
        return await asyncio.shield(self._start(action, Trigger("api"), at_s))

    def close(self) -> None:
        """The call is over: nothing is set off any more. Idempotent."""
        self._closed = True
        self._stop_timer()

    async def wait_closed(self) -> None:
        """Cut short what still runs, and wait until every outcome was told."""
        self.close()
        ends = [ended for _, ended in self._running.values()]
        if ends and self.transferring:
            await asyncio.wait(ends, timeout=_TRANSFER_ENDS_S)
        for task, _ in list(self._running.values()):
            task.cancel()
        if ends:
            await asyncio.wait(ends)

    def _spoken(self, found: Iterable[Match], at_s: float) -> None:
        for match in found:
            kind: TriggerKind = "agent_says" if match.action.when.agent_says else "agent_says_regex"
            self._set_off(match.action, Trigger(kind, said=match.matched), at_s)

    def _dialled(self, found: Iterable[Match], at_s: float) -> None:
        for match in found:
            self._set_off(match.action, Trigger("dtmf", dtmf=match.matched), at_s)
        if (due_at := self._keys.due_at) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due_at - at_s), self._no_more_keys, due_at)

    def _no_more_keys(self, at_s: float) -> None:
        self._timer = None
        self._dialled(self._keys.due(at_s), at_s)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refusal(self, action: Action) -> str | None:
        """Why an action may not run now."""
        if self._closed:
            return "cannot run: the call is over"
        if action.name in self._running:
            return "is running"
        if not action.repeat and action in self._ran:
            return "has run in this call, and has no repeat: true"
        return None

    def _set_off(self, action: Action, trigger: Trigger, at_s: float) -> None:
        try:
            if refused := self._refusal(action):
                raise ActionRefused(refused)
            self._start(action, trigger, at_s)
        except ActionRefused as refusal:
            log.debug("action.ignored", action=action.name, reason=str(refusal))

    def _start(self, action: Action, trigger: Trigger, at_s: float) -> asyncio.Future[ActionOutcome]:
        """Begin a run; the outcome comes with the future. Raises ``ActionRefused`` where no task can begin any more."""
        run = Run(action, trigger, self._controls, self._http, self._transferring)
        steps = run.run()
        try:
            task = self._tasks.create_task(steps, name=f"action {action.name}")
        except RuntimeError:
            steps.close()
            raise ActionRefused(f"{action.name} cannot run: the call is over") from None
        if action not in self._ran:
            self._ran.append(action)
        ended: asyncio.Future[ActionOutcome] = asyncio.get_running_loop().create_future()
        self._running[action.name] = (task, ended)
        task.add_done_callback(functools.partial(self._over, run, at_s, time.monotonic(), ended))
        return ended

    def _over(
        self, run: Run, at_s: float, began: float, ended: asyncio.Future[ActionOutcome], task: asyncio.Task[_Ended]
    ) -> None:
        """Tell of a run's end; a task that was cancelled before it began has one too."""
        cut_short: _Ended = ("cancelled", "the call ended")
        result, detail = cut_short if task.cancelled() else task.result()
        name = run.action.name
        outcome = ActionOutcome(
            name, run.trigger.kind, round(at_s, 3), round(time.monotonic() - began, 3), result, detail, tuple(run.steps)
        )
        del self._running[name]
        ended.set_result(outcome)
        log.info("action.ended", action=name, trigger=outcome.trigger, result=result, detail=detail)
        try:
            self._on_outcome(outcome)
        except Exception:
            log.exception("action.outcome_lost", action=name)
