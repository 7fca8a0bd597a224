"""Records for tests, and ways to look at what became of them."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.store.call_record import CallRecord
from agent.store.database import Database
from agent.store.queries import CallFilter, find
from agent.store.store import Store

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EVERY = CallFilter(limit=None)


def begun(number: int, **values: Any) -> CallRecord:
    """A call that has just started."""
    given = {
        "id": f"call{number:06}",
        "caller": f"+4930{number:06}",
        "caller_uri": f"sip:+4930{number:06}@192.0.2.1",
        "called": "100",
        "trunk": "carrier",
        "source": "192.0.2.1:5060",
        "sip_call_id": f"{number}@192.0.2.1",
        "agent": "default",
        "model": "moshi",
        "language": "en",
        "generation": 3,
        "seed": 2**62 + number,
        "started_at": START + timedelta(seconds=number),
    }
    return CallRecord.model_validate(given | values)


def ended(number: int, **values: Any) -> CallRecord:
    """A call that has ended."""
    started = START + timedelta(seconds=number)
    given = {
        "answered_at": started + timedelta(milliseconds=250),
        "ended_at": started + timedelta(seconds=61.5),
        "result": "completed",
        "reason": "caller hung up",
        "sip_status": 200,
        "codec": "PCMU",
        "rtp": {"lost": 3, "jitter_ms": 1.25},
        "conversation": {"barge_ins": 2, "talk_ratio": 0.5},
        "actions": [{"name": "pay", "result": "done", "steps": [{"said": "ok"}]}],
        "variables": {"name": "Zoë"},
    }
    return begun(number, **(given | values))


def files(folder: Path, name: str, content: bytes = b"secret") -> dict[str, str]:
    """The five files of a call, written; their paths by field."""
    folder.mkdir(parents=True, exist_ok=True)
    endings = {"recording": ".flac", "words": ".json", "transcript": ".jsonl", "vtt": ".vtt", "text": ".txt"}
    for ending in endings.values():
        (folder / f"{name}{ending}").write_bytes(content)
    return {field: str(folder / f"{name}{ending}") for field, ending in endings.items()}


async def stored(url: str) -> list[CallRecord]:
    """Every record in the database, the earliest first."""
    async with Database(url) as database:
        return (await find(database, EVERY))[::-1]


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for a condition; fails where it does not come."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


async def delivered(store: Store, within_s: float = 15.0) -> None:
    """Wait until the database has everything."""
    await until(lambda: store.spool_backlog == 0 and store.unavailable is None, within_s)


def holding(folder: Path, needle: bytes) -> list[Path]:
    """Every file below a folder that has these bytes in it."""
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]
