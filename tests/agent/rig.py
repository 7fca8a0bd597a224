"""What a session needs around it, all of it real: a store, a recorder, events."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from agent.call_log import CallLog
from agent.dialogue import Part
from agent.events.events import Events
from agent.events.post import http_client
from agent.facilities import Facilities
from agent.generation import Persona
from agent.metrics import Metrics
from agent.records.recorder import Recorder
from agent.served_model import Lease
from agent.session import Session
from agent.sounds import SILENCE
from agent.store.call_record import CallRecord
from agent.store.store import Store
from config.agent_schema import AgentConfig
from config.redaction import Redactor
from config.schema import EventSettings, StorageSettings
from tests.agent.line import ScriptedCall


@asynccontextmanager
async def facilities(folder: Path) -> AsyncIterator[Facilities]:
    """Everything in ``folder``, with an SQLite database and no webhooks."""
    storage = StorageSettings(
        transcripts=folder / "transcripts",
        recordings=folder / "recordings",
        spool=folder / "spool",
        database=f"sqlite:///{folder}/denwa.db",
    )
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(storage.database, storage.spool / "records"))
        events = await stack.enter_async_context(Events(storage.spool / "events", EventSettings(), Redactor()))
        recorder = await stack.enter_async_context(Recorder())
        http = await stack.enter_async_context(http_client())
        yield Facilities(store, events, recorder, Metrics(), http, storage)


def persona(config: AgentConfig, name: str = "agent") -> Persona:
    """An agent without sounds."""
    return Persona(name, config, 1, greeting=SILENCE, consent=SILENCE, message=SILENCE)


def make_session(to: Facilities, call: ScriptedCall, config: AgentConfig, lease: Lease, *others: Part) -> Session:
    """A session with a fresh log; ``others`` are the agents that it may switch to."""
    record = CallRecord(id=call.id, agent="agent", model=config.model, started_at=datetime.now(UTC))
    who = persona(config)
    kept = CallLog(record, who, Redactor(), to)

    def find(name: str) -> Part:
        for part in others:
            if part.persona.name == name:
                return part
        raise LookupError(f"there is no agent {name!r}")

    return Session(call, Part(who, lease, 1), kept, find, to)
