"""agent/store/database.py, faults.py, tables.py."""

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.store import migrate
from agent.store.database import Database
from agent.store.errors import DatabaseError, RecordRefused
from agent.store.queries import CallFilter, find, find_by_prefix, find_of, find_one
from tests.agent.store.records import ended, stored
from tests.peers.postgres import PASSWORD, Postgres
from tests.peers.processes import free_port


async def test_what_is_stored_is_read_back(url: str) -> None:
    """Every field of a record survives both databases, types and zones included."""
    odd = ended(2, caller="\0'; DROP TABLE calls; --", actions=[{"x": [None, 1.5, 2**53, "é"]}], recording="/r/2.flac")
    async with Database(url) as database:
        await database.prepare()
        assert await database.insert([ended(1), odd]) == []
        assert await find_one(database, "call000001") == ended(1)
        assert await find_one(database, "call000002") == odd
        assert await find_one(database, "call000003") is None


async def test_a_record_is_stored_once(url: str) -> None:
    """The second time it is left out, and the first one stays as it was; the rest of its batch is stored."""
    async with Database(url) as database:
        await database.prepare()
        await database.insert([ended(1)])
        assert await database.insert([ended(1, reason="again"), ended(2), ended(3)]) == []
    assert await stored(url) == [ended(1), ended(2), ended(3)]


async def test_another_call_with_the_same_id_is_told(url: str) -> None:
    """Two calls of one id are no repetition: the second is handed back, not lost."""
    other = ended(1, sip_call_id="other@192.0.2.1")
    async with Database(url) as database:
        await database.prepare()
        await database.insert([ended(1)])
        assert await database.insert([other, ended(2)]) == [other]
    assert await stored(url) == [ended(1), ended(2)]


async def test_filters(url: str) -> None:
    """Each condition narrows; the latest call comes first."""
    records = [ended(n, agent="ab"[n % 2], result=("failed" if n % 3 == 0 else "completed")) for n in range(9)]
    async with Database(url) as database:
        await database.prepare()
        await database.insert(records)

        async def ids(**given: object) -> list[int]:
            return [int(each.id[4:]) for each in await find(database, CallFilter(**given))]  # type: ignore[arg-type]

        assert await ids() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
        assert await ids(limit=2) == [8, 7]
        assert await ids(since=records[5].started_at, until=records[8].started_at) == [7, 6, 5]
        assert await ids(agent="b", result="failed") == [3]
        assert await ids(caller=records[4].caller) == [4]
        assert [each.id for each in await find_by_prefix(database, "call00000", limit=3)] == [r.id for r in records[:3]]
        assert await find_by_prefix(database, "call%") == []
        assert await find_of(database, records[2].caller) == [records[2]]


async def test_a_sqlite_file_is_made_as_it_should_be(tmp_path: Path) -> None:
    """Its folder is made; the group reads it and others do not; WAL, secure deletion and foreign keys are on."""
    old = os.umask(0)
    try:
        async with Database(f"sqlite:///{tmp_path}/a/b/denwa.db") as database:
            await database.prepare()
            async with database.connection() as connection:
                pragmas = [
                    (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                    for name in ("journal_mode", "secure_delete", "foreign_keys")
                ]
                files = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "a/b").iterdir()}
    finally:
        os.umask(old)
    assert pragmas == ["wal", 1, 1]
    assert files == {"denwa.db": 0o640, "denwa.db-wal": 0o640, "denwa.db-shm": 0o640}


async def test_relative_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes start at the working directory, four at the root; odd characters are part of the name."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///here/a?b%20.db", f"sqlite:///{tmp_path}/there.db"):
        async with Database(url) as database:
            await database.prepare()
    assert (tmp_path / "here" / "a?b%20.db").is_file()
    assert (tmp_path / "there.db").is_file()


async def _fault(url: str, use_s: float = 5.0) -> str:
    async with Database(url, use_s=use_s) as database:
        with pytest.raises(DatabaseError) as raised:
            await database.prepare()
    assert "\n" not in str(raised.value)
    assert PASSWORD not in str(raised.value)
    return str(raised.value)


async def test_sqlite_faults_name_the_remedy(tmp_path: Path) -> None:
    """An impossible folder, a file that is no database, and one that another program holds."""
    (tmp_path / "file").write_text("no database, but long enough to be taken for the head of one" * 20)
    assert "correct storage.database" in await _fault(f"sqlite:///{tmp_path}/file/denwa.db")
    assert "is no SQLite database" in await _fault(f"sqlite:///{tmp_path}/file")
    path = tmp_path / "held.db"
    async with Database(f"sqlite:///{path}") as database:
        await database.prepare()
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="is locked by another program"):
            await database.insert([ended(1)])
        holder.close()
        await database.insert([ended(1)])


async def test_a_read_only_sqlite_file_is_told(tmp_path: Path) -> None:
    """Root writes anywhere, so SQLite itself is told not to."""
    url = f"sqlite:///{tmp_path}/denwa.db"
    async with Database(url) as database:
        await database.prepare()
        async with database.connection() as connection:
            await connection.exec_driver_sql("PRAGMA query_only=ON")
        with pytest.raises(DatabaseError, match="give this user write access"):
            await database.insert([ended(1)])


@pytest.mark.peer("postgres")
async def test_postgresql_faults_name_the_remedy(server: Postgres) -> None:
    """Nobody there, a wrong password, a database that is missing, a user without rights, a standby."""
    assert "does not answer: start it" in await _fault(f"postgresql://denwa:{PASSWORD}@127.0.0.1:{free_port()}/x")
    assert "refuses the user" in await _fault(server.url(password="wrong"))
    assert "has no such database" in await _fault(server.url("nowhere"))
    assert "correct storage.database" in await _fault(f"postgresql://denwa:{PASSWORD}@127.0.0.1:notaport/x")
    url = await server.create_database()
    async with Database(url) as database, database.connection(write=True) as connection:
        await connection.exec_driver_sql(f"CREATE USER guest PASSWORD '{PASSWORD}'")
        await connection.exec_driver_sql(
            f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only=on"
        )
    assert "forbids it: GRANT" in await _fault(server.url("postgres").replace("denwa:", "guest:"))
    assert "name the primary" in await _fault(url)


@pytest.mark.peer("postgres")
async def test_a_frozen_postgresql_is_not_waited_for(server: Postgres) -> None:
    """Neither a new connection nor one that was good hangs longer than one use may take."""
    url = await server.create_database()
    loop = asyncio.get_running_loop()
    async with Database(url, use_s=1.0) as database:
        await database.prepare()
        server.freeze()
        try:
            began = loop.time()
            with pytest.raises(DatabaseError, match="does not answer"):
                await database.insert([ended(1)])
            assert loop.time() - began < 3.5
            assert "does not answer" in await _fault(url, use_s=1.0)
        finally:
            server.thaw()
        await database.insert([ended(1)])
    assert await stored(url) == [ended(1)]


async def test_one_record_that_cannot_be_stored_is_told_apart(url: str) -> None:
    """The batch is refused as such, not as a fault of the database."""
    bad = ended(1).model_copy(update={"agent": None})
    async with Database(url) as database:
        await database.prepare()
        with pytest.raises(RecordRefused):
            await database.insert([ended(2), bad])
        assert await find_one(database, ended(2).id) is None


async def test_migrations_go_up_and_down(url: str) -> None:
    """Each step up and back; at every revision above the first, records are kept; at head the schema is the model's."""
    async with Database(url) as database:
        await database.prepare()
        await database.insert([ended(1)])
        async with database.connection(write=True) as connection:
            assert await connection.run_sync(migrate.differences) == []
        for revision in migrate.revisions()[::-1][1:]:
            async with database.connection(write=True) as connection:
                await connection.run_sync(migrate.downgrade, revision)
                assert await connection.run_sync(migrate.current) == revision
                assert await connection.run_sync(migrate.differences) != []
                assert (await connection.exec_driver_sql("SELECT count(*) FROM calls")).scalar_one() == 1
        await database.prepare()
        assert await find_one(database, "call000001") == ended(1)
        async with database.connection(write=True) as connection:
            assert await connection.run_sync(migrate.differences) == []
            await connection.run_sync(migrate.downgrade, "base")
            names = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
            assert names == ["alembic_version"]
        await database.prepare()
        assert await find(database, CallFilter()) == []


async def test_a_migration_that_is_broken_off_leaves_nothing_behind(url: str) -> None:
    """Schema changes are part of the transaction on both databases."""
    async with Database(url) as database:
        if database.is_sqlite:
            database.path.parent.mkdir()

        async def break_off() -> None:
            async with database.connection(write=True) as connection:
                await connection.run_sync(migrate.upgrade, migrate.revisions()[0])
                raise OSError("power failure")

        with pytest.raises(DatabaseError):
            await break_off()
        async with database.connection() as connection:
            assert await connection.run_sync(migrate.current) is None
        await database.prepare()


async def test_two_gateways_may_migrate_at_once(url: str) -> None:
    """One of them does it, the other one waits."""
    async with Database(url) as one, Database(url) as two:
        await asyncio.gather(one.prepare(), two.prepare())
        await one.insert([ended(1)])
        await two.insert([ended(1), ended(2)])
    assert await stored(url) == [ended(1), ended(2)]


async def test_a_newer_schema_is_left_alone(url: str) -> None:
    """A database of a newer Denwa is not touched, and the message says what to do."""
    async with Database(url) as database:
        await database.prepare()
        async with database.connection(write=True) as connection:
            await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(DatabaseError, match=r"\(9999\) is newer than this Denwa knows: upgrade Denwa"):
            await database.prepare()


async def test_check_changes_nothing(url: str) -> None:
    """A command sees a missing or older database, and makes none."""
    async with Database(url) as database:
        with pytest.raises(DatabaseError, match="missing"):
            await database.check()
        if database.is_sqlite:
            assert not database.path.exists()
        await database.prepare()
        await database.check()
        async with database.connection(write=True) as connection:
            await connection.run_sync(migrate.downgrade, "0001")
        with pytest.raises(DatabaseError, match="0001, older than this Denwa's: start the gateway once"):
            await database.check()
