"""From the spool to the database, in the order in which the calls ended: one task on the gateway's event loop.

A record leaves the spool only after the database has committed it, and the database leaves out what it has already:
whenever this is interrupted, nothing is lost and nothing stored twice.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from agent.store.adoption import FinishTranscript, adopt
from agent.store.call_record import CallRecord
from agent.store.database import Database
from agent.store.errors import RecordRefused, SpoolError, StoreError
from agent.store.spool import Spool

log = structlog.get_logger(__name__)

BATCH: Final = 100
_SCAN: Final = 1_000
MAX_UNSPOOLED: Final = 1_000
"""Records held in memory while the spool's disk takes none."""
_FIRST_PAUSE_S: Final = 0.25
MAX_PAUSE_S: Final = 5.0
_PING_EVERY_S: Final = 15.0
_LOCK_WITHIN_S: Final = 15.0
_LOCK_EVERY_S: Final = 0.02


@asynccontextmanager
async def holding(spool: Spool, within_s: float = _LOCK_WITHIN_S) -> AsyncIterator[None]:
    """Hold the spool's lock: nobody else delivers or deletes. Raises ``SpoolError`` where it does not come free."""
    deadline = time.monotonic() + within_s
    while not spool.try_lock():
        if time.monotonic() > deadline:
            raise SpoolError(f"spool {spool.folder} is held by another program: see which gateway hangs")
        await asyncio.sleep(_LOCK_EVERY_S)
    try:
        yield
    finally:
        spool.unlock()


class Delivery:
    """Delivers for ever. ``fault`` says why it cannot, ``waiting`` counts what waits; ``wake`` when there is more."""

    def __init__(
        self, database: Database, spool: Spool, finish: FinishTranscript | None, chance: random.Random
    ) -> None:
        self.fault: str | None = None
        self.waiting = 0
        self._database = database
        self._spool = spool
        self._finish = finish
        self._chance = chance
        self._unspooled: deque[CallRecord] = deque()
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._hurried = False
        self._prepared = False
        self._adopted = False
        self._failed_at = 0.0

    def wake(self) -> None:
        """There is one more entry in the spool."""
        self.waiting += 1
        self._idle.clear()
        self._woken.set()

    def keep(self, record: CallRecord) -> bool:
        """Take a record that could not be spooled; returns whether there was room for it."""
        if len(self._unspooled) >= MAX_UNSPOOLED:
            return False
        self._unspooled.append(record)
        self.wake()
        return True

    async def flush(self, within_s: float) -> None:
        """Deliver what can be delivered within that time, without any more pauses."""
        self._hurried = True
        self._woken.set()
        if not self.waiting:
            return
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("store.records_left", count=self.waiting, why=self.fault or "too little time")

    async def run(self) -> None:
        """Deliver until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._woken.clear()
            try:
                await self._adopt()
                if not self._prepared:
                    await self._database.prepare()
                    self._prepared = True
                await self._deliver()
            except (StoreError, OSError) as error:
                self._note(str(error) if isinstance(error, StoreError) else f"spool: {error.strerror}")
                await self._pause(pause_s * self._chance.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                continue
            self._note(None)
            pause_s = _FIRST_PAUSE_S
            if self._woken.is_set():
                continue
            self._idle.set()
            if not await self._within(_PING_EVERY_S):
                self._prepared = False  # see that it still answers, and that nobody has changed the schema

    async def adopt(self) -> None:
        """Make records of the calls of gateways that died. Raises ``StoreError`` or ``OSError``."""
        async with holding(self._spool):
            if await asyncio.to_thread(adopt, self._spool, self._finish):
                self._woken.set()

    async def _adopt(self) -> None:
        if not self._adopted:
            await self.adopt()
            self._adopted = True

    async def _deliver(self) -> None:
        """Deliver all there is. Raises ``StoreError`` or ``OSError``."""
        while True:
            async with holding(self._spool):
                entries, self.waiting = await asyncio.to_thread(self._spool.ended, _SCAN)
                self.waiting += len(self._unspooled)
                for start in range(0, len(entries), BATCH):
                    await self._deliver_entries(entries[start : start + BATCH])
                while self._unspooled:
                    await self._insert([self._unspooled[0]])
                    self._unspooled.popleft()
                    self.waiting -= 1
            if len(entries) < _SCAN:
                return

    async def _deliver_entries(self, paths: Sequence[Path]) -> None:
        records = await asyncio.to_thread(lambda: [(path, self._spool.read(path)) for path in paths])
        there = {record.id: path for path, record in records if record is not None}
        refused = await self._insert([record for _, record in records if record is not None])
        for call_id, why in refused.items():
            await asyncio.to_thread(self._spool.set_aside, there.pop(call_id), why)
        await asyncio.to_thread(_unlink, list(there.values()))
        self.waiting -= len(paths)

    async def _insert(self, records: Sequence[CallRecord]) -> dict[str, str]:
        """Store what can be stored; returns the ids of the others, and why. Raises ``DatabaseError``."""
        if not records:
            return {}
        try:
            clashing = await self._database.insert(records)
        except RecordRefused as error:
            if len(records) == 1:
                log.error("store.record_refused", call=records[0].id, why=str(error))
                return {records[0].id: str(error)}
            return {key: why for record in records for key, why in (await self._insert([record])).items()}
        for record in clashing:
            log.error("store.record_refused", call=record.id, why="another call has this id")
        return {record.id: "another call has this id" for record in clashing}

    def _note(self, fault: str | None) -> None:
        """One line when the database goes away, or fails otherwise than before, and one when it is back."""
        if fault == self.fault:
            return
        if fault is None:
            log.info("store.available", away_s=round(time.monotonic() - self._failed_at, 1))
        else:
            if self.fault is None:
                self._failed_at = time.monotonic()
            log.error("store.unavailable", why=fault, spooled=self.waiting)
        self.fault = fault

    async def _pause(self, pause_s: float) -> None:
        """Wait, but not when the end has come; new entries do not shorten it."""
        until = time.monotonic() + pause_s
        while not self._hurried and (left := until - time.monotonic()) > 0:
            self._woken.clear()
            await self._within(left)
        if self._hurried:
            await asyncio.sleep(_FIRST_PAUSE_S)

    async def _within(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
