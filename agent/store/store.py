"""The records of calls, as the gateway uses them. Everything here runs on its event loop, files in threads.

A record is in the spool (agent/store/spool.py) within milliseconds of ``end`` and in the database as soon as that takes
it (agent/store/delivery.py). A database that is down, slow or hanging costs calls nothing.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from agent.store import retention
from agent.store.adoption import FinishTranscript
from agent.store.call_record import CallRecord
from agent.store.database import USE_S, Database
from agent.store.delivery import Delivery
from agent.store.queries import CallFilter, find, find_one
from agent.store.retention import Purged
from agent.store.spool import Spool

log = structlog.get_logger(__name__)

MAX_WRITES: Final = 10_000
"""Writes that may wait for a disk that hangs."""
_CLOSE_S: Final = 3.0


class Store:
    """``async with`` owns the spool and the task that delivers; afterwards it is closed for ever.

    Opening raises ``SpoolError`` where the spool cannot be used, and does not wait for the database. ``begin`` and
    ``end`` never wait and never raise. The others raise ``StoreError``.
    """

    def __init__(
        self,
        database_url: str,
        spool: Path,
        *,
        finish_transcript: FinishTranscript | None = None,
        use_s: float = USE_S,
        chance: random.Random | None = None,
    ) -> None:
        self._database = Database(database_url, use_s=use_s)
        self._spool = Spool(spool)
        self._delivery = Delivery(self._database, self._spool, finish_transcript, chance or random.Random())
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._writing = 0
        self._ending = 0
        self._turn_ns = 0
        self._closed = False
        self._written = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._task: asyncio.Task[None]
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._spool.open)
        self._delivery.waiting = await asyncio.to_thread(self._spool.waiting)
        await self._database.__aenter__()
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self._delivery.run(), name="store delivery")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        try:
            await self.wait_closed()
        finally:
            self._task.cancel()
            await self._tasks.__aexit__(None, None, None)
            self._writer.shutdown(wait=False)
            await self._database.__aexit__(None, None, None)
            await asyncio.to_thread(self._spool.close)

    @property
    def spool_backlog(self) -> int:
        """Records that the database does not have yet."""
        return self._ending + self._delivery.waiting

    @property
    def unavailable(self) -> str | None:
        """Why records are not delivered now, and what to do about it; None while they are."""
        return self._delivery.fault

    def begin(self, record: CallRecord) -> None:
        """A call has started, or more of it is known: should this gateway die, it is recorded all the same."""
        if self._refuses(record):
            return
        entry = self._spool.entry(record)
        self._write(record, lambda: self._spool.write_begun(record.id, entry), then=self._begun)

    def end(self, record: CallRecord) -> None:
        """A call has ended: keep its record on disk, and deliver it."""
        if self._refuses(record):
            return
        entry = self._spool.entry(record)
        self._turn_ns = turn_ns = max(self._turn_ns + 1, time.time_ns())
        self._ending += 1
        self._write(record, lambda: self._spool.write_ended(record.id, entry, turn_ns), then=self._ended)

    async def calls(self, which: CallFilter = CallFilter()) -> list[CallRecord]:  # noqa: B008  # immutable
        """The records of calls that have ended and are delivered, the latest first."""
        return await find(self._database, which)

    async def call(self, call_id: str) -> CallRecord | None:
        """The record of one call."""
        return await find_one(self._database, call_id)

    async def purge(self, now: datetime) -> Purged:
        """Delete what is due; make records of the calls of other gateways on this spool that died."""
        await self._delivery.adopt()
        return await retention.purge(self._database, now)

    async def delete_before(self, moment: datetime) -> Purged:
        """Delete every call that ended before, whatever its agent's retention."""
        return await retention.delete_before(self._database, moment)

    async def delete_caller(self, number: str) -> Purged:
        """Delete everything of one caller; calls that run are named in ``running`` and left alone."""
        return await retention.delete_caller(self._database, self._spool, number)

    def close(self) -> None:
        """Take no more records; idempotent."""
        self._closed = True

    async def wait_closed(self) -> None:
        """Wait a few seconds until what was taken is on disk and delivered; the next start delivers the rest."""
        until = time.monotonic() + _CLOSE_S
        try:
            async with asyncio.timeout(_CLOSE_S):
                while self._writing:
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            log.error("store.spool_hangs", writes=self._writing)
        await self._delivery.flush(max(0.5, until - time.monotonic()))

    def _refuses(self, record: CallRecord) -> bool:
        if self._closed:
            log.error("store.record_dropped", call=record.id, why="the store is closed")
        elif self._writing >= MAX_WRITES:
            log.error("store.record_dropped", call=record.id, why="the spool's disk hangs")
        else:
            return False
        return True

    def _write(
        self, record: CallRecord, write: Callable[[], None], then: Callable[[CallRecord, BaseException | None], None]
    ) -> None:
        def done(future: Future[None]) -> None:  # in the writer's thread
            with contextlib.suppress(RuntimeError):  # the disk hung until after the end, and the loop is closed
                self._loop.call_soon_threadsafe(self._done, record, future.exception(), then)

        self._writing += 1
        self._writer.submit(write).add_done_callback(done)

    def _done(
        self,
        record: CallRecord,
        error: BaseException | None,
        then: Callable[[CallRecord, BaseException | None], None],
    ) -> None:
        self._writing -= 1
        then(record, error)
        self._written.set()

    def _begun(self, record: CallRecord, error: BaseException | None) -> None:
        if error is not None:
            log.error("store.spool_failed", call=record.id, folder=str(self._spool.folder), error=_reason(error))

    def _ended(self, record: CallRecord, error: BaseException | None) -> None:
        self._ending -= 1
        if error is None:
            self._delivery.wake()
            return
        kept = self._delivery.keep(record)
        log.error("store.spool_failed", call=record.id, folder=str(self._spool.folder), error=_reason(error), kept=kept)


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
