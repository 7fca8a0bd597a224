"""The database of calls' records: SQLite or PostgreSQL, by URL. Runs on the gateway's event loop, or a command's.

The operator's URL names no driver: ``sqlite:///PATH`` goes through aiosqlite, ``postgresql://…`` through asyncpg, which
reads the rest of such a URL as libpq does (``?sslmode=require``). Every use is bounded in time.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from agent.store import migrate
from agent.store.call_record import CallRecord
from agent.store.errors import DatabaseError
from agent.store.faults import FAULTS, explain
from agent.store.tables import calls, to_row

USE_S: Final = 10.0
"""How long one use of the database may take, the connection included."""
_CONNECT_S: Final = 5.0
_MIGRATE_S: Final = 600.0
_ERASE_S: Final = 600.0
_BUSY_S: Final = 5.0
_MIGRATION_LOCK: Final = 0x64656E7761  # "denwa"


class Database:
    """One database. ``async with`` makes it ready for connections but makes none: it may be down.

    ``prepare`` brings the schema up to date. What fails raises ``DatabaseError`` with what to do about it.
    """

    def __init__(self, url: str, *, use_s: float = USE_S) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite:")
        self._use_s = use_s
        self._engine: AsyncEngine

    @property
    def path(self) -> Path:
        """The file of an SQLite database."""
        return Path(self.url.removeprefix("sqlite:///"))

    async def __aenter__(self) -> Self:
        if self.is_sqlite:
            url = URL.create("sqlite+aiosqlite", database=str(self.path))
            options: dict[str, Any] = {"isolation_level": None, "timeout": _BUSY_S}
        else:
            url = URL.create("postgresql+asyncpg")
            server = {"application_name": "denwa"}
            options = {"dsn": self.url, "timeout": min(_CONNECT_S, self._use_s), "server_settings": server}
        pool = {"pool_size": 2, "max_overflow": 3, "pool_timeout": _CONNECT_S, "pool_pre_ping": not self.is_sqlite}
        self._engine = create_async_engine(url, connect_args=options, hide_parameters=True, **pool)
        if self.is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _configure_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_sqlite)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(self._use_s):
                await self._engine.dispose()

    async def prepare(self) -> None:
        """Make what is missing, and bring the schema to this program's revision; waits for another that does."""
        with self._explained():
            if self.is_sqlite:
                await asyncio.to_thread(_make_file, self.path)
        if await self._revision() == (head := migrate.revisions()[-1]):
            return
        async with self.connection(write=True, within_s=_MIGRATE_S) as connection:
            if not self.is_sqlite:  # there BEGIN IMMEDIATE is the lock
                await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            await connection.run_sync(migrate.upgrade, head)

    async def check(self) -> None:
        """See that the database is there and has this program's schema; changes nothing."""
        if self.is_sqlite and not self.path.is_file():
            raise DatabaseError(f"SQLite database {self.path} is missing: start the gateway, or correct the path")
        revision = await self._revision()
        if revision != migrate.revisions()[-1]:
            raise DatabaseError(
                f"the database's schema is {revision or 'missing'}, older than this Denwa's: start the gateway once"
            )

    async def ping(self) -> None:
        """See that it answers."""
        async with self.connection() as connection:
            await connection.execute(sa.select(1))

    async def insert(self, records: Sequence[CallRecord]) -> list[CallRecord]:
        """Store records, all or none; those whose ids are there already are left out.

        Returns those whose id another call has. Raises ``RecordRefused`` where one of them cannot be stored.
        """
        if not records:
            return []
        make = sqlite.insert if self.is_sqlite else postgresql.insert
        statement = make(calls).on_conflict_do_nothing(index_elements=["id"]).returning(calls.c.id)
        async with self.connection(write=True) as connection:
            stored = set(await connection.scalars(statement, [to_row(record) for record in records]))
            there = {record.id: record for record in records if record.id not in stored}
            if not there:
                return []
            columns = sa.select(calls.c.id, calls.c.sip_call_id, calls.c.started_at)
            rows = await connection.execute(columns.where(calls.c.id.in_(there)))
            others = [row.id for row in rows if (row.sip_call_id, row.started_at) != _identity(there[row.id])]
        return [there[each] for each in others]

    async def erase(self, *, thoroughly: bool) -> bool:
        """Make sure that what was deleted is no longer in the database's files; returns whether that succeeded.

        SQLite overwrites what it deletes; what its log still holds is cut off here, for which no other program may be
        reading for longer than 5 s. PostgreSQL frees the room (VACUUM); ``thoroughly`` it writes the table anew and
        holds it meanwhile. Its own write-ahead log keeps copies until it is recycled.
        """
        async with self.connection(autocommit=True, within_s=_ERASE_S) as connection:
            if not self.is_sqlite:
                await connection.exec_driver_sql("VACUUM (FULL) calls" if thoroughly else "VACUUM calls")
                return True
            busy: int = (await connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).scalar_one()
            return not busy

    @contextlib.asynccontextmanager
    async def connection(
        self, *, write: bool = False, autocommit: bool = False, within_s: float | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """A connection with a transaction, committed at the end; ``DatabaseError`` for whatever goes wrong."""
        options: dict[str, Any] = {"denwa_begin": "BEGIN IMMEDIATE" if write else "BEGIN"}
        if autocommit:
            options = {"denwa_begin": None, "isolation_level": "AUTOCOMMIT"}
        with self._explained():
            async with asyncio.timeout(within_s or self._use_s), self._engine.connect() as connection:
                await connection.execution_options(**options)
                async with connection.begin():
                    yield connection

    async def _revision(self) -> str | None:
        async with self.connection() as connection:
            revision = await connection.run_sync(migrate.current)
        if revision not in (None, *await asyncio.to_thread(migrate.revisions)):
            raise DatabaseError(f"the database's schema ({revision}) is newer than this Denwa knows: upgrade Denwa")
        return revision

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            yield
        except DatabaseError:
            raise
        except FAULTS as error:
            raise explain(error, self.url) from None


def _identity(record: CallRecord) -> tuple[str, Any]:
    return record.sip_call_id, record.started_at


def _make_file(path: Path) -> None:
    """An empty file that the group may read and others may not; SQLite's -wal and -shm take after it."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))


def _configure_sqlite(connection: Any, entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON", "temp_store=MEMORY"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if begin := connection.get_execution_options().get("denwa_begin", "BEGIN"):
        connection.exec_driver_sql(begin)
