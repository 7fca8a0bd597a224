"""The gateway process, put together: edge, lines, models, sessions. Everything here runs on its event loop."""

import asyncio
import contextlib
import functools
import gc
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from agent.api import Health, create_api, serving
from agent.local_worker import LocalWorker
from agent.metrics import Metrics
from agent.routing import is_allowed, route, trunk_of
from agent.served_model import Lease, ServedModel
from agent.session import Session
from agent.transcript import Transcript
from config.process import prefer_media
from config.schema import Settings
from model_runtime.errors import NoFreeSlot
from telephony.end_cause import EndCause
from telephony.errors import NoFreeLine
from telephony.sip.edge.admission import Load, Refused
from telephony.sip.edge.edge import Edge
from telephony.sip.invitation import Invitation
from telephony.sip.line.call import SipCall
from telephony.sip.line.line_worker import Line
from telephony.sip.line.pool import LinePool

log = structlog.get_logger(__name__)

_HANGUP_WITHIN_S: Final = 4.0
"""How long BYEs may take at the end of a drain."""


class _Admitted:
    """What an INVITE holds from its admission on: a line, a model's slot, and who will answer."""

    def __init__(self, agent: str, trunk: str | None, line: Line, lease: Lease, forget: Callable[[], object]) -> None:
        self.agent = agent
        self.trunk = trunk
        self.lease = lease
        self.sip_address = line.sip_address
        self._line = line
        self._forget = forget

    def release(self) -> None:
        """Give both back, unless a call has begun: its session does that at its end. Idempotent."""
        self._line.release()
        if self._line.call is None:
            self._forget()
            self.lease.release()


class Gateway:
    """Answers calls as the settings say until it is told to stop."""

    def __init__(self, settings: Settings, config: Path) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._admitted: dict[str, _Admitted] = {}  # by SIP Call-ID, until the line worker has the call
        self._calls: dict[str, SipCall] = {}
        self._local_workers: list[LocalWorker] = []
        self._models: dict[str, ServedModel] = {}
        for name in sorted({agent.model for agent in settings.agents.values()}):
            self._models[name] = ServedModel(name, self._worker_urls(name, config), settings.models[name].token)
        self._pool = LinePool(settings.sip, self._on_call, self._on_lines_lost)
        self._edge = Edge(settings.sip, self._admit, self._load, functools.partial(is_allowed, settings))
        self._stopping = asyncio.Event()
        self._hurried = False
        self._changed = asyncio.Event()  # a call has ended, or the drain is to be cut short
        self._sessions: asyncio.TaskGroup

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        listener = _http_socket(self._settings.observability.http_listen)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._models_running())
            await stack.enter_async_context(self._pool)
            await stack.enter_async_context(self._edge)
            await stack.enter_async_context(serving(create_api(self._metrics, self._health), listener))
            async with asyncio.TaskGroup() as self._sessions:
                gc.freeze()
                prefer_media()
                sys.setswitchinterval(0.0005)
                log.info("gateway.serving", sip=[str(each) for each in self._edge.addresses])
                await self._stopping.wait()
                await self._drain()
        log.info("gateway.stopped")

    def _worker_urls(self, model: str, config: Path) -> list[str]:
        if urls := self._settings.models[model].workers:
            return urls
        worker = LocalWorker(model, config)
        self._local_workers.append(worker)
        return [worker.url]

    @contextlib.asynccontextmanager
    async def _models_running(self) -> AsyncIterator[None]:
        """Keep this machine's model workers running, and every worker's health known."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run(), name=f"worker {each.model}") for each in self._local_workers]
            running += [tasks.create_task(each.watch(), name=f"watch {each.name}") for each in self._models.values()]
            try:
                yield
            finally:
                for task in running:
                    task.cancel()

    async def _admit(self, invitation: Invitation) -> _Admitted:
        """Find the agent, a model's slot and a line for an INVITE; raises ``Refused``."""
        sip = self._settings.sip
        trunk = trunk_of(self._settings, invitation.source[0])
        decision = route(self._settings, called=invitation.called, caller=invitation.caller, trunk=trunk)
        if decision.agent is None:
            self._metrics.refused.labels(404).inc()
            raise Refused(404, "Not Found")
        try:
            lease = self._models[self._settings.agents[decision.agent].model].lease()
        except NoFreeSlot as error:
            self._metrics.refused.labels(503).inc()
            raise Refused(503, "No Model Slot Free", sip.retry_after_s) from error
        try:
            line = await self._pool.place(invitation)
        except NoFreeLine as error:
            lease.release()
            self._metrics.refused.labels(503).inc()
            raise Refused(503, "No Line Free", sip.retry_after_s) from error
        except BaseException:
            lease.release()
            raise
        admitted = self._admitted[invitation.sip_call_id] = _Admitted(
            decision.agent, trunk, line, lease, functools.partial(self._admitted.pop, invitation.sip_call_id, None)
        )
        return admitted

    def _on_call(self, call: SipCall) -> None:
        """A line worker has the INVITE: let a session live its life."""
        admitted = self._admitted.pop(call.invitation.sip_call_id, None)
        if admitted is None:
            call.hangup(EndCause.server_error("never admitted"))
            return
        call.trunk = admitted.trunk
        self._calls[call.id] = call
        self._sessions.create_task(self._converse(call, admitted), name=f"call {call.id}")

    async def _converse(self, call: SipCall, admitted: _Admitted) -> None:
        """Run one call's session; whatever happens to it stays with it."""
        started = time.monotonic()
        agent = self._settings.agents[admitted.agent]
        seed = secrets.randbits(31) if agent.sampling.seed is None else agent.sampling.seed
        structlog.contextvars.bind_contextvars(call=call.id)
        log.info(
            "call.started",
            **{"agent": admitted.agent, "caller": call.caller, "called": call.called, "trunk": call.trunk},
            **{"sip_call_id": call.invitation.sip_call_id, "seed": seed},
        )
        self._metrics.calls_active.inc()
        session = Session(call, agent, admitted.lease, self._transcript(call), seed=seed, metrics=self._metrics)
        try:
            cause = await session.run()
        except Exception as error:  # one call's failure is its own (STYLE.md, rule 6)
            log.exception("call.failed")
            cause = call.hangup(EndCause.server_error(repr(error)))
        finally:
            admitted.lease.release()
            del self._calls[call.id]
            self._changed.set()
            self._metrics.calls_active.dec()
        duration_s = time.monotonic() - started
        self._metrics.calls.labels(cause.result.value).inc()
        self._metrics.call_duration.observe(duration_s)
        if call.stats is not None:
            self._metrics.packets_lost.inc(call.stats.lost)
            self._metrics.underruns.inc(call.stats.underruns)
        log.info(
            "call.ended",
            **{"result": cause.result.value, "reason": cause.reason, "sip_status": cause.sip_status},
            duration_s=round(duration_s, 2),
        )

    def _transcript(self, call: SipCall) -> Transcript:
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%SZ}-{call.id}.jsonl"
        return Transcript(self._settings.storage.transcripts / name)

    def _on_lines_lost(self, sip_call_ids: list[str]) -> None:
        """A line worker died: its peers get their BYE from the edge."""
        self._edge.end_calls(sip_call_ids, "line worker lost")

    def _on_signal(self, number: int) -> None:
        log.info("gateway.signal", signal=signal.Signals(number).name)
        if self._stopping.is_set():
            self._hurried = True
            self._changed.set()
        self._stopping.set()

    async def _drain(self) -> None:
        """Refuse new calls, let running ones finish for a while, then hang up what is left."""
        self._edge.drain()
        log.info("gateway.draining", calls=len(self._calls), drain_s=self._settings.sip.drain_s)
        await self._calls_over(self._settings.sip.drain_s)
        for call in list(self._calls.values()):
            call.hangup(EndCause.hung_up("gateway is shutting down"))
        self._hurried = False
        await self._calls_over(_HANGUP_WITHIN_S)

    async def _calls_over(self, within_s: float) -> None:
        """Wait until no call is left, for at most ``within_s``, or until told to stop at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._calls and not self._hurried:
                    self._changed.clear()
                    await self._changed.wait()

    def _load(self) -> Load:
        """How full the gateway is: by its limit, its lines, or its models, whichever is least."""
        calls = self._edge.active_calls
        slots = sum(model.free_slots for model in self._models.values())
        return Load(calls, min(self._settings.sip.max_calls, calls + min(self._pool.free_lines, slots)))

    def _health(self) -> Health:
        models = self._models.values()
        status = "ok" if all(model.healthy for model in models) else "degraded"
        if not all(model.was_up for model in models):
            status = "starting"
        if self._stopping.is_set():
            status = "draining"
        slots = {model.name: model.free_slots for model in models}
        return {"status": status, "calls": len(self._calls), "free_lines": self._pool.free_lines, "free_slots": slots}


def _http_socket(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    return socket.create_server((host, int(port)))
