"""What every call needs of the gateway: where it is kept, told and counted."""

from dataclasses import dataclass

import httpx

from agent.events.events import Events
from agent.measures.tracing import CallTracer
from agent.metrics import Metrics
from agent.records.recorder import Recorder
from agent.store.store import Store
from config.schema import StorageSettings


@dataclass(frozen=True, slots=True)
class Facilities:
    """One gateway's; all of them outlive every call."""

    store: Store
    events: Events
    recorder: Recorder
    metrics: Metrics
    http: httpx.AsyncClient
    """For actions that ask web servers."""
    storage: StorageSettings
    tracer: CallTracer | None = None
