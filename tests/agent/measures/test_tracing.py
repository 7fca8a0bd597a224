import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agent.measures.tracing import CallSpans, Part, create_tracer
from tests.agent.measures.collector import Collector, collecting

AT = 1_800_000_000.25


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that takes everything."""
    with collecting() as running:
        yield running


def answered_call(call: str = "1a2b") -> CallSpans:
    """A call with all that a call can have."""
    return CallSpans(
        call=call,
        agent="front_desk",
        model="tiny",
        started_at=AT,
        admitted_at=AT + 0.02,
        ringing_at=AT + 0.03,
        answering_at=AT + 2.0,
        confirmed_at=AT + 2.1,
        ended_at=AT + 62.0,
        reason="caller hung up",
        sip_status=200,
        attributes={"denwa.codec": "PCMU", "denwa.generation": 3, "denwa.trunk": None},
        parts=[
            Part.model_session("ws://user:secret@127.0.0.1:8998/x", AT + 1, AT + 30, step=0, error="model lost"),
            Part.model_session("ws://127.0.0.1:8999", AT + 31, AT + 62, step=362),
            Part.action("to_office", "agent_says", "done", AT + 40, AT + 52),
            Part.transfer(False, 486, AT + 41, AT + 52),
        ],
        conversation={"duration_s": 59.9, "barge_ins": 2},
    )


def attributes(span: Span) -> dict[str, object]:
    """A span's attributes as Python values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "") for each in span.attributes}


async def test_a_call_is_one_tree(collector: Collector) -> None:
    """The collector gets the whole tree in one trace, each span under its parent and with its own times."""
    async with create_tracer(collector.url, "0.1.0") as tracer:
        tracer.record(answered_call())
    spans = {span.span_id: span for span in collector.spans}
    assert len({span.trace_id for span in spans.values()}) == 1
    tree = sorted(
        (spans[span.parent_span_id].name if span.parent_span_id else "", span.name) for span in spans.values()
    )
    assert tree == [
        ("", "call"),
        ("call", "admission"),
        ("call", "answer"),
        ("call", "conversation"),
        ("call", "ring"),
        ("conversation", "action to_office"),
        ("conversation", "model session"),
        ("conversation", "model session"),
        ("conversation", "transfer"),
    ]
    times = {
        span.name: (round(span.start_time_unix_nano / 1e9 - AT, 3), round(span.end_time_unix_nano / 1e9 - AT, 3))
        for span in spans.values()
        if span.name != "model session"
    }
    assert times == {
        "call": (0, 62),
        "admission": (0, 0.02),
        "ring": (0.03, 2),
        "answer": (2, 2.1),
        "conversation": (2.1, 62),
        "action to_office": (40, 52),
        "transfer": (41, 52),
    }


async def test_attributes_are_told(collector: Collector) -> None:
    """Service, agent, model, outcome and measures are told; of a worker's URL the address and port alone."""
    async with create_tracer(collector.url, "0.1.0") as tracer:
        tracer.record(answered_call())
    resource = {
        each.key: each.value.string_value for each in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "denwa"
    assert resource["service.version"] == "0.1.0"
    by_name = {span.name: span for span in collector.spans}
    call = attributes(by_name["call"])
    assert call["gen_ai.agent.name"] == "front_desk"
    assert call["denwa.generation"] == 3
    assert "denwa.trunk" not in call
    assert by_name["call"].kind == Span.SPAN_KIND_SERVER
    assert attributes(by_name["conversation"])["denwa.conversation.barge_ins"] == 2
    first, second = (span for span in collector.spans if span.name == "model session")
    assert attributes(first)["server.address"] == "127.0.0.1"
    assert attributes(first)["server.port"] == 8998
    assert "secret" not in str(collector.requests)
    assert (first.status.code, first.status.message) == (Status.STATUS_CODE_ERROR, "model lost")
    assert second.status.code == Status.STATUS_CODE_UNSET
    assert by_name["transfer"].status.message == "SIP 486"


async def test_a_call_that_was_never_answered(collector: Collector) -> None:
    """A call that failed while it was admitted has an admission that failed and nothing after it."""
    async with create_tracer(collector.url, "0.1.0") as tracer:
        tracer.record(CallSpans("1", "a", "m", AT, ended_at=AT + 1, result="failed", reason="no line", sip_status=503))
    assert sorted(span.name for span in collector.spans) == ["admission", "call"]
    assert all(span.status.code == Status.STATUS_CODE_ERROR for span in collector.spans)


async def test_traces_survive_a_collector_that_is_restarted(collector: Collector) -> None:
    """An answer of 503 is tried again, and every call is there once."""
    collector.statuses = [503]
    async with create_tracer(collector.url, "0.1.0") as tracer:
        for number in range(20):
            tracer.record(answered_call(str(number)))
    calls = [attributes(span)["denwa.call.id"] for span in collector.spans if span.name == "call"]
    assert sorted(calls, key=str) == sorted((str(number) for number in range(20)), key=str)


@pytest.mark.parametrize("fault", ["refused", "hangs", "garbage"])
async def test_a_collector_that_is_down_harms_nobody(fault: str, collector: Collector) -> None:
    """Recording never blocks the loop, and the end is bounded, whatever the collector does."""
    url = collector.url
    if fault == "hangs":
        collector.hang.set()
    elif fault == "garbage":
        collector.statuses = [400] * 100
    else:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1/traces"
    tracer = create_tracer(url, "0.1.0")
    async with tracer:
        began = time.perf_counter()
        for number in range(600):  # more spans than may wait
            tracer.record(answered_call(str(number)))
        assert (time.perf_counter() - began) / 600 < 0.01
        await asyncio.sleep(0.1)
        began = time.perf_counter()
    assert time.perf_counter() - began < 5
    tracer.record(answered_call())  # after the end: nothing happens


def test_missing_packages_are_named() -> None:
    """Where OpenTelemetry is not installed, the configuration's error says which key wants it and how to get it."""
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from agent.measures.tracing import create_tracer\n"
        "from config.errors import ConfigError\n"
        "try:\n    create_tracer('http://127.0.0.1:4318/v1/traces', '0.1.0', file='my.yaml')\n"
        "except ConfigError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("my.yaml:1: observability.otlp_endpoint: needs OpenTelemetry's packages")
    assert "pip install 'denwa[otel]'" in done.stderr
