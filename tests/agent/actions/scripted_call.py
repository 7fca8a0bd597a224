"""A call for actions that notes what is done with it. Unrealistic: it speaks at once, unless told how long it takes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from agent.actions.action_runner import Actions
from agent.actions.outcome import ActionOutcome
from config.actions_schema import Action
from telephony.transfer import Transfer


@dataclass
class ScriptedCall:
    """The ``Controls`` of a test; ``done`` is everything that was done, in order."""

    variables: dict[str, str] = field(default_factory=dict)
    done: list[tuple[str, Any]] = field(default_factory=list)
    speech_s: float = 0.0
    transfer_s: float = 0.0
    transfer_ends: Transfer = field(default_factory=lambda: Transfer(True, 200, "OK"))
    transfers_cut: int = 0
    broken: Exception | None = None
    _until: float = 0.0

    def say(self, text: str) -> None:
        """Begin to say it."""
        if self.broken is not None:
            raise self.broken
        self.done.append(("say", text))
        self._until = asyncio.get_running_loop().time() + self.speech_s

    async def said(self) -> None:
        """Wait until it is said."""
        await asyncio.sleep(max(0.0, self._until - asyncio.get_running_loop().time()))
        self.done.append(("said", None))

    def hang_up(self, reason: str) -> None:
        """Note it."""
        self.done.append(("hang_up", reason))

    async def transfer(self, target: str, within_s: float) -> Transfer:
        """Take as long as told."""
        self.done.append(("transfer", target))
        try:
            await asyncio.sleep(self.transfer_s)
        except asyncio.CancelledError:
            self.transfers_cut += 1
            raise
        return self.transfer_ends

    def send_dtmf(self, digits: str) -> None:
        """Note them."""
        self.done.append(("send_dtmf", digits))

    async def switch_agent(self, name: str) -> None:
        """Note it."""
        self.done.append(("switch_agent", name))

    def describe(self) -> dict[str, Any]:
        """Who calls whom."""
        return {"call": "c1", "caller": "4930123", "agent": "front", "language": "en", "variables": self.variables}


def action(name: str, *do: dict[str, Any], when: dict[str, Any] | None = None, **keys: Any) -> Action:
    """An action as YAML has it."""
    return Action.model_validate({"name": name, "when": when or {}, "do": list(do), **keys})


@asynccontextmanager
async def running(call: ScriptedCall, actions: Iterable[Action]) -> AsyncIterator[tuple[Actions, list[ActionOutcome]]]:
    """The actions of a call, and their outcomes; the call ends with the context."""
    outcomes: list[ActionOutcome] = []
    async with httpx.AsyncClient(trust_env=False, timeout=None) as http, asyncio.TaskGroup() as tasks:
        runner = Actions(list(actions), call, tasks, outcomes.append, http)
        try:
            yield runner, outcomes
        finally:
            await runner.wait_closed()


async def until(outcomes: list[ActionOutcome], count: int = 1, within_s: float = 5.0) -> None:
    """Wait for so many outcomes."""
    async with asyncio.timeout(within_s):
        while len(outcomes) < count:
            await asyncio.sleep(0.005)
