"""OpenTelemetry traces, the optional extra ``otel``: one tree of spans per call, made at its end from known times.

Nothing of it runs while media does. ``record`` runs on the gateway's event loop and only queues; encoding and sending
are done by the SDK's thread. No speech, no numbers of callers and no secrets are in a span.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import structlog

from config.errors import ConfigError, Finding

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = structlog.get_logger(__name__)

_QUEUE: Final = 4_096
"""Spans that wait for the collector, some 400 calls; beyond that the oldest are dropped."""
_BATCH: Final = 256
_DELAY_S: Final = 2.0
_REQUEST_WITHIN_S: Final = 5.0
_CLOSE_WITHIN_S: Final = 3.0

Value = str | bool | int | float
Attributes = Mapping[str, Value | None]
"""None leaves an attribute out."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a call; times in s of ``time.time()``. ``error``: what went wrong, in a few words."""

    name: str
    started_at: float
    ended_at: float
    attributes: Attributes = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def model_session(
        cls, worker_url: str, started_at: float, ended_at: float, *, step: int, error: str | None = None
    ) -> Self:
        """The conversation's stay with one model worker, which began at its ``step``."""
        url = urlsplit(worker_url)
        attributes = {"server.address": url.hostname, "server.port": url.port, "denwa.model.first_step": step}
        return cls("model session", started_at, ended_at, attributes, error)

    @classmethod
    def action(cls, name: str, trigger: str, result: str, started_at: float, ended_at: float) -> Self:
        """One run of an action; any ``result`` but "done" is an error."""
        attributes = {"denwa.action.name": name, "denwa.action.trigger": trigger, "denwa.action.result": result}
        return cls(f"action {name}", started_at, ended_at, attributes, None if result == "done" else result)

    @classmethod
    def transfer(cls, accepted: bool, sip_status: int, started_at: float, ended_at: float) -> Self:
        """An attempt to hand the caller over (REFER)."""
        attributes = {"denwa.transfer.accepted": accepted, "denwa.sip.status_code": sip_status}
        return cls("transfer", started_at, ended_at, attributes, None if accepted else f"SIP {sip_status}")


@dataclass(slots=True)
class CallSpans:
    """When a call came to which point, in s of ``time.time()``; None for what it never came to."""

    call: str
    agent: str
    model: str
    started_at: float
    """The INVITE's arrival."""
    admitted_at: float | None = None
    """A line, a slot and an agent had been found."""
    ringing_at: float | None = None
    """180 was sent."""
    answering_at: float | None = None
    """200 was sent."""
    confirmed_at: float | None = None
    """Its ACK came."""
    ended_at: float = 0.0
    result: str = "completed"
    """``EndResult``'s value; "failed" makes the trace an error."""
    reason: str = ""
    sip_status: int | None = None
    attributes: Attributes = field(default_factory=dict)
    """What else is to be known of the call, e.g. ``denwa.trunk``, ``denwa.codec``, ``denwa.generation``."""
    parts: list[Part] = field(default_factory=list)
    """Model sessions, actions and transfers, as they end."""
    conversation: Mapping[str, float | int] = field(default_factory=dict)
    """``ConversationMeasures.summary()``."""

    def phases(self) -> Iterator[Part]:
        """The call's phases up to the conversation, each as far as the call came."""
        ended = self.ended_at
        rings_until = ended if self.answering_at is None else self.answering_at
        admitted = self.admitted_at is not None
        yield Part("admission", self.started_at, self.admitted_at or ended, error=None if admitted else self.reason)
        if self.ringing_at is not None:
            yield Part("ring", self.ringing_at, rings_until)
        if self.answering_at is not None:
            yield Part("answer", self.answering_at, self.confirmed_at or ended)


def otel_missing() -> str | None:
    """Why traces cannot be sent here, or None."""
    try:
        found = find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    return None if found else "needs OpenTelemetry's packages; they come with: pip install 'denwa[otel]'"


def create_tracer(endpoint: str, version: str, *, file: str = "denwa.yaml") -> "CallTracer":
    """What sends calls' traces to ``endpoint``, the full URL of an OTLP/HTTP receiver.

    Raises ``ConfigError`` where the packages for it are missing; it names ``file``.
    """
    if why := otel_missing():
        raise ConfigError([Finding(file, 1, "observability.otlp_endpoint", why)])
    return CallTracer(endpoint, version)


class CallTracer:
    """Sends traces to one collector. A collector that is down, slow or wrong costs traces and nothing else.

    An async context: entering starts the SDK's thread, leaving sends what waits, for 3 s at most. The SDK's own
    environment variables hold: ``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER``.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        self._endpoint = endpoint
        self._version = version
        self._provider: Any = None  # of a library that may be missing
        self._exporter: Any = None
        self._tracer: Tracer | None = None

    async def __aenter__(self) -> Self:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._exporter = OTLPSpanExporter(endpoint=self._endpoint, timeout=_REQUEST_WITHIN_S)
        resource = Resource.create({"service.name": "denwa", "service.version": self._version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=_QUEUE,
                max_export_batch_size=_BATCH,
                schedule_delay_millis=1000 * _DELAY_S,
            )
        )
        self._tracer = self._provider.get_tracer("denwa", self._version)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what waits; give up after 3 s, the thread ends by itself."""
        self._tracer = None
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop did not wait for it
                loop.call_soon_threadsafe(closed.set)

        threading.Thread(target=shut_down, name="traces' end", daemon=True).start()
        try:
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await closed.wait()
        except TimeoutError:
            log.warning("tracing.unsent", endpoint=urlsplit(self._endpoint).hostname)
            self._exporter.shutdown()

    def record(self, call: CallSpans) -> None:
        """Queue the spans of a call that has ended; never blocks, and does nothing outside the context."""
        if self._tracer is None:
            return
        from opentelemetry.trace import SpanKind

        attributes: Attributes = {
            "denwa.call.id": call.call,
            "gen_ai.agent.name": call.agent,
            "gen_ai.request.model": call.model,
            "network.protocol.name": "sip",
            "denwa.call.result": call.result,
            "denwa.call.reason": call.reason,
            "denwa.sip.status_code": call.sip_status,
            **call.attributes,
        }
        error = call.reason if call.result == "failed" else None
        whole = Part("call", call.started_at, call.ended_at, attributes, error)
        root = self._start(whole, kind=SpanKind.SERVER)
        for phase in call.phases():
            _end(self._start(phase, root), phase)
        parent, talk = root, None
        if call.confirmed_at is not None:
            measured = {f"denwa.conversation.{name}": value for name, value in call.conversation.items()}
            talk = Part("conversation", call.confirmed_at, call.ended_at, measured)
            parent = self._start(talk, root)
        for part in call.parts:
            _end(self._start(part, parent), part)
        if talk is not None:
            _end(parent, talk)
        _end(root, whole)

    def _start(self, part: Part, parent: "Span | None" = None, **more: Any) -> "Span":
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        assert self._tracer is not None
        context = Context() if parent is None else set_span_in_context(parent, Context())
        attributes = {name: value for name, value in part.attributes.items() if value is not None}
        return self._tracer.start_span(
            part.name, context, attributes=attributes, start_time=_ns(part.started_at), **more
        )


def _end(span: "Span", part: Part) -> None:
    from opentelemetry.trace import StatusCode

    if part.error is not None:
        span.set_attribute("error.type", part.error)
        span.set_status(StatusCode.ERROR, part.error)
    span.end(_ns(max(part.ended_at, part.started_at)))


def _ns(at_s: float) -> int:
    whole = math.floor(at_s)
    return whole * 1_000_000_000 + round((at_s - whole) * 1e9)
