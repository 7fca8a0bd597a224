"""The gateway process, put together: edge, lines, models, sessions, records. Everything here runs on its event loop."""

import asyncio
import contextlib
import gc
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog

from agent.admission import AdmissionDesk, Admitted
from agent.api.app import create_api
from agent.api.health import Health
from agent.api.listener import http_socket, serving
from agent.call_log import CallLog
from agent.configuration import Configuration, Reloaded
from agent.dialogue import Part
from agent.events.events import Events
from agent.events.post import http_client
from agent.facilities import Facilities
from agent.generation import Generation, Persona
from agent.measures.tracing import CallTracer, create_tracer
from agent.message_call import tell
from agent.metrics import Metrics
from agent.models import Models
from agent.records.forms import finish
from agent.records.recorder import Recorder
from agent.routing import is_allowed
from agent.session import Session
from agent.store.call_record import CallRecord
from agent.store.errors import StoreError
from agent.store.spool import records_spool
from agent.store.store import Store
from config.logs import configure
from config.process import prefer_media
from config.schema import Settings
from telephony.end_cause import EndCause
from telephony.sip.edge.admission import Load
from telephony.sip.edge.edge import Edge
from telephony.sip.line.call import SipCall
from telephony.sip.line.pool import LinePool

log = structlog.get_logger(__name__)

_HANGUP_WITHIN_S: Final = 4.0
"""How long BYEs may take at the end of a drain."""
_PURGE_EVERY_S: Final = 3_600.0


class Gateway:
    """Answers calls as the settings say until it is told to stop."""

    def __init__(self, settings: Settings, file: Path) -> None:
        """``file`` is where the settings were read, and will be read again. Raises ``ConfigError``."""
        self._sessions: dict[str, Session] = {}
        self._settings = settings
        self._configuration = Configuration(file, settings, self._on_generation)
        self._metrics = Metrics()
        self._metrics.generation.set(1)
        self._calls: dict[str, SipCall] = {}
        self._models = Models()
        self._pool = LinePool(settings.sip, self._on_call, self._on_lines_lost)
        self._desk = AdmissionDesk(lambda: self._configuration.current, self._models, self._pool, self._metrics)
        self._edge = Edge(settings.sip, self._desk.admit, self._load, self._is_allowed)
        self._tracer = _tracer(settings, file)
        self._facilities: Facilities
        self._serving = False
        self._stopping = asyncio.Event()
        self._hurried = False
        self._changed = asyncio.Event()  # a call has ended, or the drain is to be cut short
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup_signal)
        listener = http_socket(self._settings.observability.http_listen)
        async with contextlib.AsyncExitStack() as stack:
            self._facilities = await stack.enter_async_context(self._facilities_open())
            await stack.enter_async_context(self._models)
            self._models.serve(self._configuration.current.models, self._settings)
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            await stack.enter_async_context(self._pool)
            await stack.enter_async_context(self._edge)
            api = create_api(self, self._facilities.store, self._facilities.events, self._settings.api.token)
            await stack.enter_async_context(serving(api, listener))
            purging = self._tasks.create_task(self._purge(), name="purge")
            gc.freeze()
            prefer_media()
            sys.setswitchinterval(0.0005)
            log.info("gateway.serving", sip=[str(each) for each in self._edge.addresses])
            self._serving = True
            await self._stopping.wait()
            await self._drain()
            self._serving = False
            purging.cancel()
        log.info("gateway.stopped")

    # What the API shows and moves (agent/api/app.py).

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The conversations that run, by call id."""
        return self._sessions

    def health(self) -> Health:
        """How the gateway is."""
        models, store, events = list(self._models), self._facilities.store, self._facilities.events
        well = all(model.healthy for model in models) and store.unavailable is None
        status = "ok" if well else "degraded"
        if not all(model.was_up for model in models):
            status = "starting"
        if self._stopping.is_set():
            status = "draining"
        slots = {model.name: model.free_slots for model in models}
        taking = status in ("ok", "degraded") and self._pool.free_lines > 0 and any(slots.values())
        return {
            "status": status,
            "ready": taking,
            "generation": self._configuration.current.number,
            "calls": len(self._calls),
            "free_lines": self._pool.free_lines,
            "free_slots": slots,
            "store": store.unavailable or "ok",
            "records_waiting": store.spool_backlog,
            "events_waiting": dict(events.webhooks.waiting),
        }

    def metrics_page(self) -> bytes:
        """The gateway's figures in Prometheus' text format."""
        return self._metrics.page()

    def running(self) -> list[dict[str, Any]]:
        """The calls that run now."""
        return [session.kept.status() for session in self._sessions.values()]

    async def reload(self) -> Reloaded:
        """Read the configuration again; new calls get what it says, if all of it is right."""
        outcome = await self._configuration.reload()
        self._metrics.reloads.labels("accepted" if outcome.accepted else "refused").inc()
        self._metrics.generation.set(outcome.generation)
        return outcome

    # The rest is its own.

    @contextlib.asynccontextmanager
    async def _facilities_open(self) -> AsyncIterator[Facilities]:
        """Where calls are kept, told and counted."""
        storage, generation = self._settings.storage, self._configuration.current
        async with contextlib.AsyncExitStack() as stack:
            store = await stack.enter_async_context(
                Store(storage.database, records_spool(storage), finish_transcript=finish)
            )
            events = await stack.enter_async_context(
                Events(storage.spool / "events", self._settings.events, generation.redactor)
            )
            recorder = await stack.enter_async_context(Recorder())
            http = await stack.enter_async_context(http_client())
            if self._tracer is not None:
                await stack.enter_async_context(self._tracer)
            self._metrics.follow(store, events, recorder)
            yield Facilities(store, events, recorder, self._metrics, http, storage, self._tracer)

    async def _on_generation(self, generation: Generation) -> None:
        """Make ready what a new generation needs."""
        settings, before = generation.settings, self._configuration.current.settings
        self._models.serve(generation.models, settings)
        if settings.privacy != before.privacy:
            configure(settings.observability.log_level, redactor=generation.redactor)
        await self._facilities.events.reconfigure(settings.events, generation.redactor)

    def _is_allowed(self, address: str) -> bool:
        return is_allowed(self._configuration.current.settings, address)

    def _on_call(self, call: SipCall) -> None:
        """A line worker has the INVITE: let a session live its life."""
        admitted = self._desk.take(call.invitation.sip_call_id)
        if admitted is None:
            call.hangup(EndCause.server_error("never admitted"))
            return
        call.trunk = admitted.trunk
        self._calls[call.id] = call
        self._tasks.create_task(self._converse(call, admitted), name=f"call {call.id}")

    async def _converse(self, call: SipCall, admitted: Admitted) -> None:
        """Run one call and keep what is to be kept of it; whatever happens to it stays with it."""
        structlog.contextvars.bind_contextvars(call=call.id)
        self._metrics.calls_active.inc()
        try:
            await self._live(call, admitted)
        except Exception as error:  # one call's failure is its own (STYLE.md, rule 6)
            log.exception("call.failed")
            call.hangup(EndCause.server_error(repr(error)))
        finally:
            admitted.release_slot()
            self._sessions.pop(call.id, None)
            del self._calls[call.id]
            self._changed.set()
            self._metrics.calls_active.dec()

    async def _live(self, call: SipCall, admitted: Admitted) -> None:
        started = time.monotonic()
        persona, seed = admitted.persona, _seed(admitted.persona)
        record = _begun(call, admitted, seed)
        log.info(
            "call.started",
            **{name: getattr(record, name) for name in ("agent", "generation", "caller", "called", "trunk")},
            **{"sip_call_id": record.sip_call_id, "seed": seed},
        )
        kept = CallLog(record, persona, admitted.generation.redactor, self._facilities)
        kept.spans.admitted_at = time.time()
        variables = persona.config.variables
        try:
            if admitted.lease is None:
                cause = await tell(call, persona, kept)
            else:
                part = Part(persona, admitted.lease, seed)
                session = Session(call, part, kept, self._find_part(admitted.generation), self._facilities)
                self._sessions[call.id] = session
                variables = session.variables
                cause = await session.run()
        except Exception as error:  # is recorded like any other end
            log.exception("call.failed")
            cause = call.hangup(EndCause.server_error(repr(error)))
        self._sessions.pop(call.id, None)
        self._count(call, cause, time.monotonic() - started)
        rtp = {} if call.stats is None else asdict(call.stats)
        rtp.pop("call", None)
        await kept.close(cause, rtp, variables)

    def _count(self, call: SipCall, cause: EndCause, duration_s: float) -> None:
        """Count and log a call that has ended."""
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

    def _find_part(self, generation: Generation) -> Callable[[str], Part]:
        """How a call finds another agent of its generation, with a slot and a seed."""

        def find(name: str) -> Part:
            persona = generation.persona(name)
            if persona is None:
                raise LookupError(f"there is no agent {name!r} in the call's configuration")
            return Part(persona, self._models[persona.config.model].lease(), _seed(persona))

        return find

    def _on_lines_lost(self, sip_call_ids: list[str]) -> None:
        """A line worker died: its peers get their BYE from the edge."""
        self._edge.end_calls(sip_call_ids, "line worker lost")

    def _on_signal(self, number: int) -> None:
        log.info("gateway.signal", signal=signal.Signals(number).name)
        if self._stopping.is_set():
            self._hurried = True
            self._changed.set()
        self._stopping.set()

    def _on_hangup_signal(self) -> None:
        """SIGHUP: read the configuration again; while Denwa starts or drains that would come to nothing."""
        if self._serving and not self._stopping.is_set():
            self._tasks.create_task(self._reload_as_told(), name="reload")

    async def _reload_as_told(self) -> None:
        await self.reload()

    async def _purge(self) -> None:
        """Delete what has been kept long enough, now and every hour."""
        while True:
            try:
                purged = await self._facilities.store.purge(datetime.now(UTC))
                await self._facilities.events.purge(purged.calls)
            except (StoreError, OSError) as error:
                log.warning("store.not_purged", error=str(error))
            await asyncio.sleep(_PURGE_EVERY_S)

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
        slots = sum(model.free_slots for model in self._models)
        return Load(calls, min(self._settings.sip.max_calls, calls + min(self._pool.free_lines, slots)))


def _seed(persona: Persona) -> int:
    seed = persona.config.sampling.seed
    return secrets.randbits(31) if seed is None else seed


def _begun(call: SipCall, admitted: Admitted, seed: int) -> CallRecord:
    """The record of a call that has just come in."""
    invitation, persona = call.invitation, admitted.persona
    return CallRecord(
        id=call.id,
        caller=call.caller,
        caller_uri=invitation.caller_uri,
        called=call.called,
        trunk=call.trunk,
        source=invitation.source[0],
        sip_call_id=invitation.sip_call_id,
        agent=persona.name,
        model=persona.config.model,
        language=persona.config.language,
        generation=persona.generation,
        seed=seed,
        started_at=admitted.invited_at,
    )


def _tracer(settings: Settings, file: Path) -> CallTracer | None:
    endpoint = settings.observability.otlp_endpoint
    return None if endpoint is None else create_tracer(endpoint, version("denwa"), file=str(file))
