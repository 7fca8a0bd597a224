"""agent/store/retention.py."""

import asyncio
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.store.call_record import FILES
from agent.store.database import Database
from agent.store.retention import Purged, delete_before, delete_caller, keep_until, purge
from agent.store.spool import Spool
from agent.store.store import Store
from config.agent_schema import RetentionSettings
from tests.agent.store.records import START, begun, delivered, ended, files, holding, stored, until
from tests.peers.postgres import Postgres

NUMBER = "+819012345678"


def test_keep_until_counts_from_the_end() -> None:
    """Days from the end of the call, from its start where it has no end yet; without days, for ever."""
    some = RetentionSettings(audio_days=0.5, record_days=30)
    record = keep_until(ended(0), some)
    assert record.ended_at is not None
    assert record.delete_audio_at == record.ended_at + timedelta(hours=12)
    assert record.delete_text_at is None
    assert record.delete_record_at == record.ended_at + timedelta(days=30)
    assert keep_until(begun(0), some).delete_audio_at == START + timedelta(hours=12)
    assert keep_until(ended(0), RetentionSettings(audio_days=1e15)).delete_audio_at is None


async def test_each_part_goes_when_it_is_due(url: str, tmp_path: Path) -> None:
    """First the sound, then the words, then the record; what is not due stays, and a dry run is dry."""
    retention = RetentionSettings(audio_days=1, text_days=2, record_days=3)
    record = keep_until(ended(0, **files(tmp_path / "calls", "one")), retention)
    other = ended(1, **files(tmp_path / "calls", "other"))
    async with Database(url) as database:
        await database.prepare()
        await database.insert([record, other])

        async def purged_after(days: float, *, dry_run: bool = False) -> tuple[int, int, int]:
            done = await purge(database, record.ended_at + timedelta(days=days), dry_run=dry_run)  # type: ignore[operator]
            assert done.complete
            return done.records, done.recordings, done.texts

        assert await purged_after(0.99) == (0, 0, 0)
        assert await purged_after(1.01, dry_run=True) == (0, 1, 0)
        assert await stored(url) == [record, other]
        assert await purged_after(1.01) == (0, 1, 0)
        assert not (tmp_path / "calls" / "one.flac").exists()
        assert (await stored(url))[0] == record.changed(recording=None)
        assert await purged_after(2.01) == (0, 0, 4)
        assert (await stored(url))[0] == record.changed(**dict.fromkeys(FILES))
        assert await purged_after(3.01) == (1, 0, 0)
        assert await purged_after(99) == (0, 0, 0)
    assert await stored(url) == [other]
    assert len(list((tmp_path / "calls").iterdir())) == 5


async def test_a_file_that_cannot_be_removed_is_tried_again(url: str, tmp_path: Path) -> None:
    """Its path stays in the record, and the record stays; missing files are no fault."""
    record = keep_until(ended(0, **files(tmp_path / "calls", "one")), RetentionSettings(audio_days=1, record_days=2))
    recording = tmp_path / "calls" / "one.flac"
    recording.unlink()
    recording.mkdir()
    (tmp_path / "calls" / "one.vtt").unlink()
    async with Database(url) as database:
        await database.prepare()
        await database.insert([record])
        for days in (1, 2):
            with capture_logs() as logs:
                done = await purge(database, record.ended_at + timedelta(days=days))  # type: ignore[operator]
            assert not done.complete
            assert set(done.kept) == {str(recording)}
            assert "store.file_kept" in [each["event"] for each in logs]
            assert (await stored(url))[0].recording == str(recording)
        recording.rmdir()
        assert (await purge(database, record.ended_at + timedelta(days=3))).records == 1  # type: ignore[operator]
    assert await stored(url) == []


async def test_purges_go_through_every_page(url: str) -> None:
    """More records than one page holds, some of which stay due because their files cannot be removed."""
    records = [keep_until(ended(n, recording="/proc/self/stat"), RetentionSettings(record_days=1)) for n in range(250)]
    records += [keep_until(ended(n), RetentionSettings(record_days=1)) for n in range(250, 500)]
    async with Database(url) as database:
        await database.prepare()
        await database.insert(records)
        done = await purge(database, START + timedelta(days=9))
    assert (done.records, len(done.kept)) == (250, 250)
    assert len(await stored(url)) == 250


async def test_old_calls_are_deleted_on_demand(url: str) -> None:
    """Whatever their agents' retention says."""
    async with Database(url) as database:
        await database.prepare()
        await database.insert([ended(0), ended(1)])
        moment = ended(1).ended_at
        assert moment is not None
        assert (await delete_before(database, moment, dry_run=True)).records == 1
        assert (await delete_before(database, moment)).records == 1
    assert await stored(url) == [ended(1)]


async def test_nobody_in_particular_is_not_deleted(url: str, tmp_path: Path) -> None:
    """Callers without a number are many people."""
    async with Database(url) as database:
        with pytest.raises(ValueError, match="nobody in particular"):
            await delete_caller(database, Spool(tmp_path), "")


async def test_a_caller_is_found_nowhere_afterwards(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Planted numbers are in no file any more: database, log, spool, recordings, transcripts; others lose nothing."""
    needle = NUMBER.encode()
    mine = [ended(n, caller=NUMBER, **files(tmp_path / "calls", f"c{n}", needle * 50)) for n in range(0, 300, 3)]
    mine += [ended(600, direction="outbound", called=NUMBER, variables={"number": NUMBER})]
    others = [ended(n, **files(tmp_path / "calls", f"c{n}")) for n in range(1, 300, 3)]
    others += [ended(601, caller=NUMBER[:-1], **files(tmp_path / "calls", "c601"))]
    expired = keep_until(
        ended(602, variables={"n": NUMBER}, **files(tmp_path / "calls", "c602", needle)),
        RetentionSettings(record_days=1),
    )
    places = [tmp_path]
    if url.startswith("postgresql:"):
        server: Postgres = request.getfixturevalue("server")
        places = [tmp_path, server.data / "base"]
    async with Store(url, tmp_path / "spool") as store:
        for record in (*mine, *others, expired):
            store.end(record)
        await delivered(store)
        spool = tmp_path / "spool"
        (spool / "old.ended.json.bad").write_bytes(b'{"caller": "' + needle)
        (spool / "other.ended.json.bad").write_bytes(b"{")
        store.begin(begun(700, caller=NUMBER))
        await until(lambda: (spool / "call000700.begun.json").exists())
        if url.startswith("postgresql:"):
            await asyncio.to_thread(_checkpoint, server, url)
        assert all(holding(place, needle) for place in places)

        assert (await store.purge(START + timedelta(days=9))).records == 1
        done = await store.delete_caller(NUMBER)
        assert (done.records, done.recordings, done.texts) == (101, 100, 400)
        assert done.running == ["call000700"]
        assert not done.complete
        assert [path.name for path in holding(tmp_path, needle)] == ["call000700.begun.json"]

        store.end(ended(700, caller=NUMBER))
        await delivered(store)
        assert (await store.delete_caller(NUMBER)).complete
        if url.startswith("postgresql:"):
            await asyncio.to_thread(_checkpoint, server, url)
        assert [holding(place, needle) for place in places] == [[] for _ in places]
        assert (spool / "other.ended.json.bad").exists()
        assert await store.delete_caller(NUMBER) == Purged()
    left = await stored(url)
    assert [each.id for each in left] == [each.id for each in others]
    assert len(list((tmp_path / "calls").iterdir())) == 5 * len(others)


async def test_a_caller_in_the_spool_is_deleted_there(tmp_path: Path) -> None:
    """Records that no database has had yet, and calls of a gateway that died, go with their files."""
    url = f"sqlite:///{tmp_path}/denwa.db"
    spool = Spool(tmp_path / "spool")
    spool.open()
    waiting = ended(1, caller=NUMBER, **files(tmp_path / "calls", "waiting", NUMBER.encode()))
    lost = begun(2, caller=NUMBER, **files(tmp_path / "calls", "lost", NUMBER.encode()))
    spool.write_ended(waiting.id, spool.entry(waiting), 1)
    spool.write_begun(lost.id, spool.entry(lost))
    spool.write_ended("call000003", spool.entry(ended(3)), 2)
    spool.close()
    async with Database(url) as database:
        await database.prepare()
        dry = await delete_caller(database, Spool(tmp_path / "spool"), NUMBER, dry_run=True)
        assert len(holding(tmp_path, NUMBER.encode())) == 12
        done = await delete_caller(database, Spool(tmp_path / "spool"), NUMBER)
    assert (dry.records, dry.recordings, dry.texts) == (done.records, done.recordings, done.texts) == (2, 2, 8)
    assert holding(tmp_path, NUMBER.encode()) == []
    async with Store(url, tmp_path / "spool") as store:
        await delivered(store)
    assert await stored(url) == [ended(3)]


async def test_a_reader_that_holds_the_log_is_told(tmp_path: Path) -> None:
    """While another program reads, SQLite's log cannot be cut off: the purge says that it is not over."""
    url = f"sqlite:///{tmp_path}/denwa.db"
    async with Database(url) as database, Database(url) as reader:
        await database.prepare()
        await database.insert([ended(1, caller=NUMBER)])
        async with reader.connection() as connection:
            await connection.exec_driver_sql("SELECT count(*) FROM calls")
            done = await delete_caller(database, Spool(tmp_path / "none"), NUMBER)
        assert (done.records, done.erased, done.complete) == (1, False, False)
        assert (await delete_caller(database, Spool(tmp_path / "none"), NUMBER)).complete
        assert holding(tmp_path, NUMBER.encode()) == []
    assert not (tmp_path / "none").exists()


def _checkpoint(server: Postgres, url: str) -> None:
    """Have PostgreSQL write its memory to its files, and remove those it has dropped."""
    subprocess.run(["psql", "-q", "-c", "CHECKPOINT", url], check=True, timeout=30)
