"""Finding calls' records in the database. Runs on the gateway's event loop, or a command's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agent.store.call_record import CallRecord, short
from agent.store.database import Database
from agent.store.tables import calls, from_row


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls: those for which every given condition holds, the latest ``limit`` of them (None: all)."""

    since: datetime | None = None
    """Started then or later."""
    until: datetime | None = None
    """Started before."""
    caller: str | None = None
    """The number exactly."""
    agent: str | None = None
    result: str | None = None
    limit: int | None = 100

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """The same in SQL."""
        given: list[sa.ColumnElement[bool]] = []
        if self.since is not None:
            given.append(calls.c.started_at >= self.since)
        if self.until is not None:
            given.append(calls.c.started_at < self.until)
        for column, value in (
            (calls.c.caller, self.caller),
            (calls.c.agent, self.agent),
            (calls.c.result, self.result),
        ):
            if value is not None:
                given.append(column == short(value))
        return given


async def find(database: Database, which: CallFilter) -> list[CallRecord]:
    """The records, the latest call first. Raises ``DatabaseError``."""
    statement = sa.select(calls).where(*which.conditions()).order_by(calls.c.started_at.desc(), calls.c.id)
    return await _records(database, statement.limit(which.limit))


async def find_one(database: Database, call_id: str) -> CallRecord | None:
    """The record of one call. Raises ``DatabaseError``."""
    return next(iter(await _records(database, sa.select(calls).where(calls.c.id == call_id))), None)


async def find_by_prefix(database: Database, prefix: str, limit: int = 10) -> list[CallRecord]:
    """The records whose id begins so, the id itself first. Raises ``DatabaseError``."""
    begins = sa.func.substr(calls.c.id, 1, len(prefix)) == prefix
    return await _records(database, sa.select(calls).where(begins).order_by(calls.c.id).limit(limit))


async def find_of(database: Database, number: str) -> list[CallRecord]:
    """Every record of one person: calls from the number, and calls that were made to it. Raises ``DatabaseError``."""
    number = short(number)
    called = (calls.c.direction == "outbound") & (calls.c.called == number)
    return await _records(database, sa.select(calls).where((calls.c.caller == number) | called))


async def find_page(
    database: Database, conditions: Sequence[sa.ColumnElement[bool]], after: str, limit: int
) -> list[CallRecord]:
    """The next ``limit`` records in the order of their ids, after that one. Raises ``DatabaseError``."""
    statement = sa.select(calls).where(calls.c.id > after, *conditions).order_by(calls.c.id).limit(limit)
    return await _records(database, statement)


async def _records(database: Database, statement: sa.Select[Any]) -> list[CallRecord]:
    async with database.connection() as connection:
        return [from_row(row._mapping) for row in await connection.execute(statement)]
