"""agent/calls.py, agent/store/export.py."""

import asyncio
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile

from agent import calls
from agent.store.call_record import CallRecord
from agent.store.database import Database
from agent.store.queries import CallFilter
from agent.store.retention import keep_until
from agent.store.spool import records_spool
from agent.store.store import Store
from config.agent_schema import RetentionSettings
from config.schema import StorageSettings
from tests.agent.store.records import EVERY, START, begun, delivered, ended, files, holding, until

NOW = START + timedelta(days=1)


@pytest.fixture
def storage(tmp_path: Path) -> StorageSettings:
    """Where a gateway would keep things."""
    return StorageSettings(database=f"sqlite:///{tmp_path}/denwa.db", spool=tmp_path / "spool")


def _store(storage: StorageSettings, *records: CallRecord) -> None:
    async def store() -> None:
        async with Database(storage.database) as database:
            await database.prepare()
            await database.insert(records)

    asyncio.run(store())


def test_list_is_a_table(storage: StorageSettings) -> None:
    """The latest first; what callers call themselves moves no cursor and breaks no table."""
    _store(storage, ended(1), ended(2, caller="\x1b[2J" + "x" * 99, result="failed"), begun(3, result="cancelled"))
    text, code = calls.list_calls(storage, EVERY)
    lines = text.splitlines()
    assert code == 0
    assert [line.split()[-1] for line in lines] == ["ID", "call000003", "call000002", "call000001"]
    words = "2026-03-01 12:00:01 61 s +4930000001 100 default completed caller hung up call000001"
    assert " ".join(lines[3].split()) == words
    assert "?[2Jxxx" in lines[2]
    assert len({line.index("call0") for line in lines[1:]}) == 1
    assert calls.list_calls(storage, CallFilter(result="failed"))[0].count("\n") == 1


def test_list_as_json(storage: StorageSettings) -> None:
    """One record per line, which can be read back."""
    _store(storage, ended(1), ended(2))
    text, code = calls.list_calls(storage, EVERY, as_json=True)
    assert [CallRecord.model_validate_json(line) for line in text.splitlines()] == [ended(2), ended(1)]
    assert code == 0


def test_since(storage: StorageSettings) -> None:
    """Spans, dates, and times with and without a zone; anything else says what would be right."""
    assert calls.parse_since("90m", NOW) == NOW - timedelta(minutes=90)
    assert calls.parse_since("7d", NOW) == NOW - timedelta(days=7)
    assert calls.parse_since("2026-03-01", NOW) == datetime(2026, 3, 1, tzinfo=UTC)
    assert calls.parse_since("2026-03-01T12:00+01:00", NOW) == datetime(2026, 3, 1, 11, tzinfo=UTC)
    for text in ("yesterday", "7", "", "-1d", "999999d" * 2):
        with pytest.raises(ValueError, match="write 30m"):
            calls.parse_since(text, NOW)
    with pytest.raises(ValueError, match="write 30m"):
        calls.parse_since("999999d", NOW)


def test_show_takes_the_beginning_of_an_id(storage: StorageSettings) -> None:
    """If it is one call's; else it says which there are. The whole id always is."""
    _store(storage, ended(1, id="abc"), ended(2, id="abcdef"), ended(3, id="xyz"))
    text, code = calls.show(storage, "x")
    assert code == 0
    assert "id: xyz" in text.splitlines()
    assert "ended_at: 2026-03-01 12:01:04.500 UTC" in text.splitlines()
    assert "  jitter_ms: 1.25" in text.splitlines()
    assert '  {"name": "pay", "result": "done", "steps": [{"said": "ok"}]}' in text.splitlines()
    assert calls.show(storage, "ab") == ("denwa calls: several calls begin with 'ab': abc, abcdef", 1)
    assert "id: abc" in calls.show(storage, "abc").text.splitlines()
    assert calls.show(storage, "q") == ("denwa calls: there is no call 'q'; see denwa calls list", 1)
    assert calls.show(storage, "").exit_code == 1


def test_a_missing_database_is_told_and_not_made(storage: StorageSettings, tmp_path: Path) -> None:
    """Every command says so, with exit code 1."""
    for text, code in (
        calls.list_calls(storage, EVERY),
        calls.show(storage, "a"),
        calls.export(storage, EVERY),
        calls.purge(storage, NOW, expired=True),
    ):
        assert code == 1
        assert (
            text
            == f"denwa calls: SQLite database {tmp_path}/denwa.db is missing: start the gateway, or correct the path"
        )
    assert list(tmp_path.iterdir()) == []


def test_export_to_the_terminal(storage: StorageSettings) -> None:
    """JSON lines, or CSV with every field; what is more than a value is JSON in it."""
    _store(storage, ended(1), ended(2, reason='he said "no",\nand went'))
    text, _ = calls.export(storage, EVERY)
    assert [json.loads(line)["id"] for line in text.splitlines()] == ["call000002", "call000001"]
    rows = list(csv.DictReader(io.StringIO(calls.export(storage, EVERY, form="csv").text)))
    assert [row["id"] for row in rows] == ["call000002", "call000001"]
    assert rows[0]["reason"] == 'he said "no",\nand went'
    assert json.loads(rows[1]["rtp"]) == {"lost": 3, "jitter_ms": 1.25}
    assert set(rows[0]) == set(CallRecord.model_fields)


def test_export_as_a_data_set(storage: StorageSettings, tmp_path: Path) -> None:
    """The folder is what moshi-finetune reads: data.jsonl names stereo files, each with its words beside it."""
    paths = files(tmp_path / "calls", "one", b'{"alignments": [["hi", [0.1, 0.3], "SPEAKER_MAIN"]]}')
    soundfile.write(paths["recording"], np.zeros((36_000, 2), np.int16), 24_000)
    silent = files(tmp_path / "calls", "two")
    (tmp_path / "calls" / "two.flac").unlink()
    _store(storage, ended(1, **paths), ended(2, **silent), ended(3))
    out = tmp_path / "out"
    text, code = calls.export(storage, EVERY, files=out)
    assert code == 0
    assert text.splitlines() == [
        f"{out}: 3 records, 9 files, 1 recordings with words",
        f"missing: {silent['recording']}",
    ]
    (line,) = (out / "data.jsonl").read_text().splitlines()
    assert json.loads(line) == {"path": "data_stereo/call000001.flac", "duration": 1.5}
    assert soundfile.info(str(out / "data_stereo/call000001.flac")).channels == 2
    assert json.loads((out / "data_stereo/call000001.json").read_text())["alignments"][0][0] == "hi"
    assert {each.name for each in (out / "transcripts").glob("call000001*")} == {
        f"call000001.{ending}" for ending in ("jsonl", "vtt", "txt")
    }
    records = [json.loads(each) for each in (out / "records.jsonl").read_text().splitlines()]
    assert records[2]["recording"] == "data_stereo/call000001.flac"
    assert records[1]["recording"] is None
    assert calls.export(storage, EVERY, files=out) == (
        f"denwa calls: {out} is there already, and not empty: name a new folder",
        1,
    )
    soundfile_like = tmp_path / "calls" / "one.flac"
    soundfile_like.write_bytes(b"no sound")
    assert "cannot be read" in calls.export(storage, EVERY, files=tmp_path / "out2").text


def test_purge_wants_one_choice(storage: StorageSettings) -> None:
    """None and two are bad usage."""
    _store(storage)
    assert calls.purge(storage, NOW).exit_code == 2
    assert calls.purge(storage, NOW, expired=True, caller="1").exit_code == 2
    assert calls.purge(storage, NOW, caller="").exit_code == 2
    assert calls.purge(storage, NOW, older_than_days=-1).exit_code == 2
    assert calls.purge(storage, NOW, older_than_days=float("nan")).exit_code == 2


def test_purge(storage: StorageSettings, tmp_path: Path) -> None:
    """What is due, what is old, one caller; a dry run only tells."""
    due = keep_until(ended(1, **files(tmp_path / "calls", "one")), RetentionSettings(audio_days=0.5))
    _store(storage, due, ended(2), ended(3), ended(4, started_at=NOW, answered_at=None, ended_at=NOW))
    audio = ("deleted 0 records, 1 recordings, 0 files of words", 0)
    assert calls.purge(storage, NOW, expired=True, dry_run=True) == (
        "would delete 0 records, 1 recordings, 0 files of words",
        0,
    )
    assert calls.purge(storage, NOW, expired=True) == audio
    assert calls.purge(storage, NOW, caller="+4930000002").text == "deleted 1 records, 0 recordings, 0 files of words"
    assert calls.purge(storage, NOW, older_than_days=0.5).text == "deleted 2 records, 0 recordings, 4 files of words"
    assert [line.split()[-1] for line in calls.list_calls(storage, EVERY).text.splitlines()] == ["ID", "call000004"]


async def test_beside_a_running_gateway(storage: StorageSettings, tmp_path: Path) -> None:
    """On the same SQLite file while it writes: what is listed, and what is purged, is not stored again."""
    number = "+819012345678"
    async with Store(storage.database, records_spool(storage)) as store:
        store.end(ended(901, caller="100"))
        await delivered(store)

        async def load() -> None:
            for each in range(200):
                store.end(ended(each, caller=number if each % 2 else "100"))
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(load())
            while not loading.done():
                text, code = await asyncio.to_thread(calls.list_calls, storage, EVERY)
                assert code == 0, text
                text, code = await asyncio.to_thread(calls.purge, storage, NOW, caller=number)
                assert code == 0, text
        await delivered(store)
        store.begin(begun(900, caller=number))
        await until(lambda: (records_spool(storage) / "call000900.begun.json").exists())
        assert "(1 call runs now)" in (await asyncio.to_thread(calls.list_calls, storage, EVERY)).text
        text, code = await asyncio.to_thread(calls.purge, storage, NOW, caller=number)
        assert code == 1
        assert "left alone, for these calls run: call000900" in text
        store.end(ended(900, caller="100"))
        await delivered(store)
        assert [each.caller for each in await store.calls(EVERY)] == ["100"] * 102
        assert store.unavailable is None
    assert holding(tmp_path, number.encode()) == []
