"""The names of every metric that Denwa exposes, as Prometheus stores them."""

import re

from prometheus_client import CollectorRegistry, generate_latest

from agent.measures.conversation_metrics import ConversationMetrics
from agent.metrics import Metrics
from model_runtime.engine.echo import EchoModel
from model_runtime.engine.engine import Engine
from model_runtime.worker.metrics import registry as worker_registry

_NAME = re.compile(r"\bdenwa_[a-z0-9_]+")


def exposed() -> set[str]:
    """What the gateway's and a model worker's pages hold."""
    conversations = CollectorRegistry()
    ConversationMetrics(conversations)
    worker = generate_latest(worker_registry("m", Engine(EchoModel(1)), lambda: 0))
    pages = (Metrics().page(), generate_latest(conversations), worker)
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", b"".join(pages).decode(), re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def named_in(text: str) -> set[str]:
    """The metrics that a query names."""
    return set(_NAME.findall(text))
