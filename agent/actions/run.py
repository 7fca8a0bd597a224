"""One run of an action: its steps, in order. A coroutine on the gateway's event loop."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx
import structlog

from agent.actions.controls import ControlRefused, Controls
from agent.actions.outcome import Result, TriggerKind
from agent.actions.template import UnknownVariable, expand
from agent.actions.webhook_step import WebhookAnswer, WebhookFailed, ask
from config.actions_schema import Action, HangUpStep, Step, TransferStep, WebhookStep
from config.addresses import check_transfer_target
from telephony.dtmf import check_digits

log = structlog.get_logger(__name__)

_SAID_WITHIN_S: Final = 15.0
"""How long what is being said may delay a transfer or the end."""
_TRANSFER_GRACE_S: Final = 5.0
_ANSWERED_WITHIN_S: Final = 30.0
"""How long the target of a transfer that a web server asked for may take to answer."""


class _Over(Exception):
    """The call is over or handed over: what is left of the action has no one to talk to."""


class _Failed(Exception):
    """A step cannot be done; the message says why."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """What set an action off; ``said`` and ``dtmf`` are what was matched, never to be logged."""

    kind: TriggerKind
    said: str = ""
    dtmf: str = ""


class Run:
    """One run of an action. ``transferring`` is held, by whichever run, while a transfer of the call is under way."""

    def __init__(
        self,
        action: Action,
        trigger: Trigger,
        controls: Controls,
        http: httpx.AsyncClient,
        transferring: asyncio.Lock,
    ) -> None:
        self.action = action
        self.trigger = trigger
        self.steps: list[str] = []
        """The kinds of the steps that were done."""
        self._controls = controls
        self._http = http
        self._transferring = transferring
        self._limit: asyncio.Timeout | None = None

    async def run(self) -> tuple[Result, str]:
        """Do every step; return the result and its detail. Raises nothing but ``CancelledError``."""
        kind = ""
        try:
            async with asyncio.timeout(self.action.timeout_s) as self._limit:
                for number, step in enumerate(self.action.do, start=1):
                    kind = next(name for name in Step.model_fields if getattr(step, name) is not None)
                    where = f"step {number} ({kind})"
                    await self._step(step)
                    self.steps.append(kind)
        except _Over:
            self.steps.append(kind)
        except (_Failed, ControlRefused, UnknownVariable, WebhookFailed) as error:
            return "failed", f"{where}: {error}"
        except TimeoutError:
            if self._limit is not None and self._limit.expired():
                return "timed_out", f"{where}: not done {self.action.timeout_s:g} s after the action began"
            return "failed", f"{where}: took too long"
        except Exception as error:  # whatever an action does wrong, its call goes on
            log.exception("action.fault", action=self.action.name)
            return "failed", f"{where}: a fault of Denwa ({type(error).__name__})"
        return "done", ""

    async def _step(self, step: Step) -> None:
        if step.say is not None:
            self._controls.say(self._expand(step.say))
        elif step.set is not None:
            self._controls.variables.update({name: self._expand(value) for name, value in step.set.items()})
        elif step.send_dtmf is not None:
            self._send_dtmf(self._expand(step.send_dtmf))
        elif step.transfer is not None:
            await self._transfer(step.transfer)
        elif step.webhook is not None:
            await self._ask(step.webhook)
        elif step.switch_agent is not None:
            await self._switch(step.switch_agent)
        elif step.hang_up is not None:
            await self._hang_up(step.hang_up)

    def _expand(self, text: str) -> str:
        return expand(text, self._variables())

    def _variables(self) -> Mapping[str, str]:
        return self._controls.variables | {"dtmf": self.trigger.dtmf, "said": self.trigger.said}

    def _send_dtmf(self, keys: str) -> None:
        try:
            self._controls.send_dtmf(check_digits(keys))
        except ValueError as error:
            raise _Failed(str(error)) from None

    async def _transfer(self, step: TransferStep) -> None:
        try:
            target = check_transfer_target(self._expand(step.to))
        except ValueError:
            raise _Failed("the target is no SIP URI once its variables are in it") from None
        await self._said()
        reason = await self._hand_over(target, step.within_s)
        if step.failed_say is not None:
            self._controls.say(self._expand(step.failed_say))
        raise _Failed(reason)

    async def _hand_over(self, target: str, within_s: float) -> str:
        """Raises ``_Over`` where the transfer was accepted, else returns why not.

        Once asked for it takes its own time: neither the action's limit nor another action ends it.
        """
        assert self._limit is not None
        if self._transferring.locked():
            raise _Failed("a transfer of this call is under way already")
        loop = asyncio.get_running_loop()
        until, began = self._limit.when(), loop.time()
        self._limit.reschedule(None)
        try:
            async with self._transferring, asyncio.timeout(within_s + _TRANSFER_GRACE_S):
                transfer = await self._controls.transfer(target, within_s)
        except TimeoutError:
            return "nothing was heard of it in time"
        except ValueError:
            return "the target cannot be told to the peer"
        finally:
            self._limit.reschedule(None if until is None else until + loop.time() - began)
        if transfer.accepted:
            raise _Over
        return f"not accepted: {transfer.status} {transfer.reason}".rstrip()

    async def _ask(self, step: WebhookStep) -> None:
        body = {
            **self._controls.describe(),
            "action": self.action.name,
            "trigger": {"kind": self.trigger.kind, "said": self.trigger.said, "dtmf": self.trigger.dtmf},
        }
        try:
            answer = await ask(self._http, step, self._variables(), body)
        except WebhookFailed:
            if step.failed_say is not None:
                self._controls.say(self._expand(step.failed_say))
            raise
        await self._follow(answer)

    async def _follow(self, answer: WebhookAnswer) -> None:
        """Do what a web server's answer asks for."""
        self._controls.variables.update(answer.set)
        if answer.say:
            self._controls.say(answer.say)
        if answer.switch_agent is not None:
            await self._switch(answer.switch_agent)
        if answer.transfer is not None:
            await self._said()
            raise _Failed(await self._hand_over(answer.transfer, _ANSWERED_WITHIN_S))
        if answer.hang_up:
            await self._hang_up(HangUpStep())

    async def _switch(self, name: str) -> None:
        await self._said()
        await self._controls.switch_agent(name)

    async def _hang_up(self, step: HangUpStep) -> None:
        """End the call, but neither in the midst of a word nor of a transfer."""
        await asyncio.sleep(step.after_s)
        await self._said()
        async with self._transferring:
            self._controls.hang_up(f"action {self.action.name}")
        raise _Over

    async def _said(self) -> None:
        """Wait until everything has been said, for 15 s at most."""
        try:
            async with asyncio.timeout(_SAID_WITHIN_S):
                await self._controls.said()
        except TimeoutError:
            log.warning("action.not_said", action=self.action.name, within_s=_SAID_WITHIN_S)
