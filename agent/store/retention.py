"""How long what is kept of calls stays, and its deletion: files, rows, and what databases keep of deleted rows.

Runs on the gateway's event loop, or a command's; files in threads. Files go first, then the row that names them, so an
interrupted purge is taken up again by the next. What happens twice does no harm.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from agent.store.call_record import AUDIO, FILES, TEXTS, CallRecord, short
from agent.store.database import Database
from agent.store.delivery import holding
from agent.store.queries import find_of, find_page
from agent.store.spool import Spool
from agent.store.tables import calls
from config.agent_schema import RetentionSettings

log = structlog.get_logger(__name__)

_PAGE: Final = 200


@dataclass(slots=True)
class Purged:
    """What was deleted, or in a dry run would be."""

    records: int = 0
    recordings: int = 0
    texts: int = 0
    """Files of words: transcripts in all their forms."""
    kept: list[str] = field(default_factory=list)
    """Files that could not be removed; the next purge tries again."""
    calls: list[str] = field(default_factory=list)
    """Ids of calls whose words or record went: what waits to be told of them must go too."""
    running: list[str] = field(default_factory=list)
    """Ids of calls that run, and were left alone."""
    erased: bool = True
    """Whether the database's files are known to be free of what was deleted."""

    @property
    def anything(self) -> bool:
        """Whether there was anything to delete."""
        return bool(self.records or self.recordings or self.texts)

    @property
    def complete(self) -> bool:
        """Whether nothing is left that should have been deleted."""
        return self.erased and not self.kept and not self.running


def keep_until(record: CallRecord, retention: RetentionSettings) -> CallRecord:
    """The record with the times at which each part of it is due for deletion; None is never."""
    since = record.ended_at or record.started_at

    def due(days: float | None) -> datetime | None:
        try:
            return None if days is None else since + timedelta(days=days)
        except OverflowError:
            return None

    return record.changed(
        delete_audio_at=due(retention.audio_days),
        delete_text_at=due(retention.text_days),
        delete_record_at=due(retention.record_days),
    )


async def purge(database: Database, now: datetime, *, dry_run: bool = False) -> Purged:
    """Delete what is due: recordings, words, whole records. Raises ``StoreError``."""
    purged = Purged()
    for column, names in ((calls.c.delete_audio_at, AUDIO), (calls.c.delete_text_at, TEXTS)):
        later = sa.or_(calls.c.delete_record_at.is_(None), calls.c.delete_record_at > now)
        await _each(database, [column <= now, later], _strip(database, names, purged, dry_run))
    await _each(database, [calls.c.delete_record_at <= now], _delete(database, purged, dry_run))
    return await _finished(database, purged, dry_run, thoroughly=False)


async def delete_before(database: Database, moment: datetime, *, dry_run: bool = False) -> Purged:
    """Delete every call that ended before, files and record, whatever its agent's retention. Raises ``StoreError``."""
    purged = Purged()
    await _each(database, [calls.c.ended_at < moment], _delete(database, purged, dry_run))
    return await _finished(database, purged, dry_run, thoroughly=False)


async def delete_caller(database: Database, spool: Spool, number: str, *, dry_run: bool = False) -> Purged:
    """Delete everything of one person: calls from exactly this number, and outbound calls to it.

    The caller's number must not be empty. Raises ``StoreError``.
    """
    if not number:
        raise ValueError("a caller without a number is nobody in particular")
    purged = Purged()
    async with contextlib.AsyncExitStack() as stack:
        if await asyncio.to_thread(spool.folder.is_dir):
            await stack.enter_async_context(holding(spool))  # so no record is between spool and database now
            await asyncio.to_thread(_delete_spooled, spool, number, purged, dry_run)
        await _delete(database, purged, dry_run)(await find_of(database, number))
    return await _finished(database, purged, dry_run, thoroughly=True)


async def _each(
    database: Database, conditions: Sequence[sa.ColumnElement[bool]], act: Callable[[list[CallRecord]], Awaitable[None]]
) -> None:
    after = ""
    while page := await find_page(database, conditions, after, _PAGE):
        await act(page)
        after = page[-1].id


def _strip(
    database: Database, names: Sequence[str], purged: Purged, dry_run: bool
) -> Callable[[list[CallRecord]], Awaitable[None]]:
    """Deletes those files of records, and their paths in the rows."""

    async def strip(records: list[CallRecord]) -> None:
        for record in records:
            if not any(name in record.files for name in names):
                continue
            left = await asyncio.to_thread(_remove_files, record, names, purged, dry_run)
            files = {name: path for name, path in record.files.items() if name not in names or name in left}
            if names is TEXTS:
                purged.calls.append(record.id)
            if not dry_run and files != record.files:
                async with database.connection(write=True) as connection:
                    await connection.execute(sa.update(calls).where(calls.c.id == record.id).values(files=files))

    return strip


def _delete(database: Database, purged: Purged, dry_run: bool) -> Callable[[list[CallRecord]], Awaitable[None]]:
    """Deletes records with their files; one whose file cannot be removed stays, and says where it is."""

    async def delete(records: list[CallRecord]) -> None:
        ids = []
        for record in records:
            if not await asyncio.to_thread(_remove_files, record, FILES, purged, dry_run):
                ids.append(record.id)
        purged.records += len(ids)
        purged.calls += ids
        for start in range(0, 0 if dry_run else len(ids), _PAGE):
            async with database.connection(write=True) as connection:
                await connection.execute(sa.delete(calls).where(calls.c.id.in_(ids[start : start + _PAGE])))

    return delete


async def _finished(database: Database, purged: Purged, dry_run: bool, *, thoroughly: bool) -> Purged:
    if dry_run:
        return purged
    if thoroughly or purged.anything:
        purged.erased = await database.erase(thoroughly=thoroughly)
    for path in purged.kept:
        log.error("store.file_kept", path=path)
    if thoroughly or purged.anything:
        log.info(
            "store.purged",
            **{"records": purged.records, "recordings": purged.recordings, "texts": purged.texts},
            **{"kept": len(purged.kept), "erased": purged.erased},
        )
    return purged


def _delete_spooled(spool: Spool, number: str, purged: Purged, dry_run: bool) -> None:
    """Delete what the spool holds of a person, calls excepted that run."""
    begun = [each for each in spool.begun() if each.record.is_of(number)]  # before the ended ones: none slips through
    paths, _ = spool.ended(limit=2**31)
    found = [record for path in paths if (record := spool.read(path)) is not None and record.is_of(number)]
    ended = {record.id for record in found}
    for each in begun:
        if each.record.id not in ended:
            if spool.is_alive(each.gateway):
                purged.running.append(each.record.id)
            else:
                found.append(each.record)
    for record in found:
        if not _remove_files(record, FILES, purged, dry_run):  # else its record stays, and says where they are
            purged.records += 1
            if not dry_run:
                spool.remove(record.id)
    needle = short(number).encode()
    for path in spool.unreadable():
        if not dry_run and needle in path.read_bytes():
            path.unlink(missing_ok=True)


def _remove_files(record: CallRecord, names: Iterable[str], purged: Purged, dry_run: bool) -> set[str]:
    """Remove those files; returns the names of the ones that are left. A file that is missing is no fault."""
    left = set()
    for name in names:
        path = record.files.get(name)
        if path is None:
            continue
        try:
            if not dry_run:
                Path(path).unlink()
            elif not Path(path).exists():
                continue
        except FileNotFoundError:
            continue
        except OSError:
            left.add(name)
            purged.kept.append(path)
            continue
        if name in AUDIO:
            purged.recordings += 1
        else:
            purged.texts += 1
    return left
