"""``denwa calls``: the records of calls, listed, shown, exported and deleted.

Functions from arguments to the text to print and the exit code; they print nothing. They read the database while a
gateway writes to it, and never change its schema.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from agent.check import Answer
from agent.events.webhooks import Webhooks
from agent.remote import NoGateway, ask, detail
from agent.store import retention
from agent.store.call_record import CallRecord
from agent.store.database import Database
from agent.store.errors import StoreError
from agent.store.export import ExportError, as_csv, as_json_line, export_files
from agent.store.queries import CallFilter, find, find_by_prefix
from agent.store.retention import Purged
from agent.store.spool import Spool, records_spool
from config.schema import Settings, StorageSettings

_FAILED: Final = 1
_BAD_USAGE: Final = 2
_COLUMNS: Final = ("STARTED (UTC)", "TALKED", "CALLER", "CALLED", "AGENT", "RESULT", "REASON", "ID")
_WIDEST: Final = 32
_SPAN: Final = re.compile(r"(\d{1,6})([mhd])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def parse_since(text: str, now: datetime) -> datetime:
    """``30m``, ``12h``, ``7d``, a date or a date with a time (ISO 8601; UTC where it names no zone).

    Raises ``ValueError`` with what would be right.
    """
    try:
        if match := _SPAN.fullmatch(text):
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"--since {text!r}: write 30m, 12h, 7d, 2026-01-31 or 2026-01-31T08:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def list_calls(storage: StorageSettings, which: CallFilter, *, as_json: bool = False) -> Answer:
    """The calls, the latest first: a table, or one JSON object per line."""

    async def run(database: Database) -> Answer:
        records = await find(database, which)
        if as_json:
            return Answer("\n".join(as_json_line(record) for record in records), 0)
        note = await asyncio.to_thread(_waiting, Spool(records_spool(storage)))
        return Answer("\n".join([*_table([_COLUMNS, *map(_line, records)]), *note]), 0)

    return _answer(storage, run)


def show(storage: StorageSettings, prefix: str) -> Answer:
    """Everything that is known of one call; the beginning of its id is enough where no other begins so."""

    async def run(database: Database) -> Answer:
        found = await find_by_prefix(database, prefix) if prefix else []
        exact = [record for record in found if record.id == prefix]
        if len(exact or found) == 1:
            return Answer("\n".join(_everything((exact or found)[0])), 0)
        if not found:
            return Answer(f"denwa calls: there is no call {_plain(prefix)!r}; see denwa calls list", _FAILED)
        ids = ", ".join(record.id for record in found)
        return Answer(f"denwa calls: several calls begin with {_plain(prefix)!r}: {ids}", _FAILED)

    return _answer(storage, run)


def export(
    storage: StorageSettings,
    which: CallFilter,
    *,
    form: Literal["jsonl", "csv"] = "jsonl",
    files: Path | None = None,
) -> Answer:
    """The records as JSON lines or CSV; with ``files`` their recordings and transcripts too, into that new folder."""

    async def run(database: Database) -> Answer:
        records = await find(database, which)
        if files is not None:
            done = await asyncio.to_thread(export_files, records, files, form)
            return Answer(done.report(files), 0)
        if form == "csv":
            return Answer(as_csv(records), 0)
        return Answer("\n".join(as_json_line(record) for record in records), 0)

    return _answer(storage, run)


def purge(
    storage: StorageSettings,
    now: datetime,
    *,
    caller: str | None = None,
    older_than_days: float | None = None,
    expired: bool = False,
    dry_run: bool = False,
) -> Answer:
    """Delete what is due (``expired``), everything of one caller, or every call older than so many days.

    Where a gateway runs it must do so itself, for it holds events that wait: ``purge_by_gateway``.
    """
    if [bool(caller), older_than_days is not None, expired].count(True) != 1:
        return Answer("denwa calls purge: say which: --expired, --caller NUMBER or --older-than DAYS", _BAD_USAGE)
    if older_than_days is not None and not 0 <= older_than_days <= 36_500:
        return Answer("denwa calls purge: --older-than takes 0 to 36500 days", _BAD_USAGE)

    async def run(database: Database) -> Answer:
        if caller:
            spool = Spool(records_spool(storage))
            purged = await retention.delete_caller(database, spool, caller, dry_run=dry_run)
        elif older_than_days is not None:
            before = now - timedelta(days=older_than_days)
            purged = await retention.delete_before(database, before, dry_run=dry_run)
        else:
            purged = await retention.purge(database, now, dry_run=dry_run)
        if not dry_run:
            await asyncio.to_thread(Webhooks.purge_folder, storage.spool / "events", purged.calls)
        lines = _report(purged, dry_run)
        return Answer("\n".join(lines), 0 if purged.complete else _FAILED)

    return _answer(storage, run)


def purge_by_gateway(settings: Settings, caller: str | None, older_than_days: float | None) -> Answer | None:
    """Have the running gateway delete, events that wait included; None where none runs."""
    try:
        if caller:
            response = ask(settings, "DELETE", f"/v1/callers/{quote(caller, safe='')}")
        else:
            response = ask(settings, "POST", "/v1/purge", {"older_than_days": older_than_days})
    except NoGateway:
        return None
    if response.status_code != 200:
        return Answer(f"denwa calls purge: {detail(response)}", _FAILED)
    told = response.json()
    complete = told.pop("complete")
    return Answer("\n".join(_report(Purged(**told), dry_run=False)), 0 if complete else _FAILED)


def _answer(storage: StorageSettings, run: Callable[[Database], Awaitable[Answer]]) -> Answer:
    async def with_database() -> Answer:
        async with Database(storage.database) as database:
            await database.check()
            return await run(database)

    try:
        return asyncio.run(with_database())
    except (StoreError, ExportError) as error:
        return Answer(f"denwa calls: {error}", _FAILED)


def _waiting(spool: Spool) -> list[str]:
    """A line on what the database does not have yet."""
    if not spool.folder.is_dir():
        return []
    ended = spool.waiting()
    running = len([each for each in spool.begun() if spool.is_alive(each.gateway)])
    parts = [f"{ended} more wait in the spool"] if ended else []
    parts += [f"{running} {'call runs' if running == 1 else 'calls run'} now"] if running else []
    return [f"({', '.join(parts)})"] if parts else []


def _line(record: CallRecord) -> tuple[str, ...]:
    talked = "-" if record.duration_s is None else f"{record.duration_s:.0f} s"
    started = f"{record.started_at:%Y-%m-%d %H:%M:%S}"
    names = (record.caller, record.called, record.agent, record.result or "-", record.reason)
    return (started, talked, *(_plain(each)[:_WIDEST] or "-" for each in names), record.id)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _everything(record: CallRecord) -> list[str]:
    lines = []
    for name in CallRecord.model_fields:
        value = getattr(record, name)
        if value is None or value in ("", {}, []):
            continue
        if isinstance(value, datetime):
            value = f"{value:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"  {_plain(key)}: {_plain(each)}" for key, each in value.items())]
        elif isinstance(value, list):
            lines += [f"{name}:", *(f"  {_plain(json.dumps(each, ensure_ascii=False))}" for each in value)]
        else:
            lines.append(f"{name}: {_plain(value)}")
    return lines


def _report(purged: Purged, dry_run: bool) -> list[str]:
    did = "would delete" if dry_run else "deleted"
    lines = [f"{did} {purged.records} records, {purged.recordings} recordings, {purged.texts} files of words"]
    lines += [
        f"could not remove {_plain(path)}; its record is kept, so the next purge tries again" for path in purged.kept
    ]
    if purged.running:
        lines.append(f"left alone, for these calls run: {', '.join(purged.running)}; purge again when they have ended")
    if not purged.erased:
        lines.append("the database's log still holds what was deleted, for other programs are reading it; purge again")
    return lines


def _plain(value: Any) -> str:
    """Text without what would move a terminal's cursor: callers choose their names."""
    return "".join(each if each.isprintable() else "?" for each in str(value))
