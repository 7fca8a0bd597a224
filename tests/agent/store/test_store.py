"""agent/store/store.py, delivery.py."""

import asyncio
import gc
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.store.database import Database
from agent.store.errors import SpoolError
from agent.store.spool import Spool
from agent.store.store import Store
from tests.agent.store.records import begun, delivered, ended, stored, until
from tests.peers.postgres import Postgres


async def test_two_hundred_calls_at_ten_per_second(url: str, tmp_path: Path) -> None:
    """Each is recorded once, as it was told, and beginning and ending cost the loop next to nothing."""
    costs = []
    gc.collect()
    async with Store(url, tmp_path / "spool") as store:
        for number in range(200):
            at = time.perf_counter()
            store.begin(begun(number))
            store.end(ended(number))
            costs.append(time.perf_counter() - at)
            await asyncio.sleep(0.02)  # five times the pace
        await delivered(store)
        assert [each.id for each in await store.calls()] == [ended(n).id for n in range(199, 99, -1)]
        assert await store.call("call000007") == ended(7)
    assert await stored(url) == [ended(number) for number in range(200)]
    assert list((tmp_path / "spool").iterdir()) == [tmp_path / "spool" / "lock"]
    print(f"begin + end: median {sorted(costs)[100] * 1e3:.2f} ms, worst {max(costs) * 1e3:.2f} ms")  # noqa: T201
    assert sorted(costs)[190] < 0.003


async def test_records_are_stored_in_the_order_of_their_ends(url: str, tmp_path: Path) -> None:
    """A burst while the database is not there yet keeps its order through the spool, batch after batch."""
    numbers = [(n * 37) % 250 for n in range(250)]
    async with Store(url, tmp_path / "spool") as store:
        for number in numbers:
            store.end(ended(number))
        await delivered(store)
    async with Database(url) as database, database.connection() as connection:
        order = "rowid" if database.is_sqlite else "ctid"
        rows = await connection.exec_driver_sql(f"SELECT id FROM calls ORDER BY {order}")
        assert [int(row.id[4:]) for row in rows] == numbers


async def test_what_was_left_is_delivered_at_the_next_start(url: str, tmp_path: Path) -> None:
    """A store whose database never came closes in time; the next one delivers, and damaged entries hinder nothing."""
    spool = tmp_path / "spool"
    began = time.monotonic()
    async with Store("sqlite:////proc/none/denwa.db", spool) as store:
        for number in range(20):
            store.end(ended(number))
        await until(lambda: store.unavailable is not None)
        assert store.spool_backlog == 20
    assert time.monotonic() - began < 5
    (spool / "0.ended.json").write_text("{")
    (spool / "folder.ended.json").mkdir()
    async with Store(url, spool) as store:
        await delivered(store)
    assert await stored(url) == [ended(number) for number in range(20)]
    assert {path.name for path in spool.iterdir()} == {"lock", "0.ended.json.bad", "folder.ended.json.bad"}


async def test_close_delivers_what_was_just_told(url: str, tmp_path: Path) -> None:
    """Records of the last moment are in the database when the context ends; later ones are refused with a line."""
    async with Store(url, tmp_path / "spool") as store:
        for number in range(50):
            store.end(ended(number))
    assert len(await stored(url)) == 50
    with capture_logs() as logs:
        store.end(ended(99))
    assert [each["event"] for each in logs] == ["store.record_dropped"]


async def test_a_full_disk_does_not_lose_records(url: str, tmp_path: Path) -> None:
    """What the spool cannot take goes from memory to the database."""
    spool = tmp_path / "spool"
    async with Store(url, spool) as store:
        await delivered(store)
        for path in spool.iterdir():
            if path.name.startswith("gateway-"):
                path.unlink()
        spool.rename(tmp_path / "away")
        with capture_logs() as logs:
            store.begin(begun(1))
            store.end(ended(1))
            await until(lambda: store.spool_backlog == 1 and store.unavailable is not None)
            (tmp_path / "away").rename(spool)
            await delivered(store)
    assert [each["event"] for each in logs].count("store.spool_failed") == 2
    assert await stored(url) == [ended(1)]


async def test_a_record_that_no_database_takes_blocks_no_other(url: str, tmp_path: Path) -> None:
    """It is set aside with a line; the rest of its batch is stored."""
    spool = Spool(tmp_path / "spool")
    spool.open()
    spool.write_ended(ended(0).id, spool.entry(ended(0)), 1)
    spool.write_ended(ended(1).id, spool.entry(ended(1, sip_call_id="another")), 2)
    spool.write_ended(ended(2).id, spool.entry(ended(2)), 3)
    spool.close()
    async with Database(url) as database:
        await database.prepare()
        await database.insert([ended(1)])
    with capture_logs() as logs:
        async with Store(url, tmp_path / "spool") as store:
            await delivered(store)
    assert [each["event"] for each in logs if each["log_level"] == "error"] == [
        "store.record_refused",
        "spool.entry_set_aside",
    ]
    assert await stored(url) == [ended(0), ended(1), ended(2)]
    assert (tmp_path / "spool" / "call000001.ended.json.bad").exists()


async def test_two_stores_on_one_database_and_one_spool(url: str, tmp_path: Path) -> None:
    """Nothing is stored twice, and neither takes the other's running calls for lost."""
    async with Store(url, tmp_path / "spool") as one, Store(url, tmp_path / "spool") as two:
        one.begin(begun(900))
        two.begin(begun(901))
        for number in range(100):
            (one, two)[number % 2].end(ended(number))
            await asyncio.sleep(0.002)
        await delivered(one)
        await delivered(two)
        assert len(await stored(url)) == 100
        await one.purge(begun(0).started_at)
        one.end(ended(900))
        two.end(ended(901))
    assert await stored(url) == [ended(number) for number in [*range(100), 900, 901]]


async def test_a_spool_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    """The gateway must not take calls that it could not record."""
    (tmp_path / "spool").write_text("")
    with pytest.raises(SpoolError):
        async with Store(f"sqlite:///{tmp_path}/denwa.db", tmp_path / "spool"):
            pass


_GATEWAY = """
import asyncio, os, signal, sys
from pathlib import Path
from agent.store import delivery
from agent.store.store import Store
from tests.agent.store.records import begun, ended

url, spool, when = sys.argv[1:]
if when == "committed":  # dies between the commit and the removal of what was committed
    delivery._unlink = lambda paths: os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with Store(url, Path(spool)) as store:
        store.begin(begun(800))
        for number in range(300):
            store.begin(begun(number))
            store.end(ended(number))
            await asyncio.sleep(0.001)
        while when == "spooled" and store._ending:
            await asyncio.sleep(0.001)
        if when == "spooled":
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(20)

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["spooled", "committed"])
async def test_a_killed_gateway_loses_nothing(url: str, tmp_path: Path, when: str) -> None:
    """Killed before delivery, or between commit and clean-up: every call is there once, the running one too."""
    line = [sys.executable, "-c", _GATEWAY, url, str(tmp_path / "spool"), when]
    done = await asyncio.to_thread(subprocess.run, line, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    spooled = {path.name.partition(".")[0] for path in (tmp_path / "spool").glob("*.json")}
    async with Database(url) as database:
        await database.prepare()
    before = await stored(url)
    if when == "committed":
        assert before
        assert {each.id for each in before} <= spooled  # committed, and still in the spool
    else:
        assert len({each.id for each in before} | spooled) == 301
    async with Store(url, tmp_path / "spool") as store:
        await until(lambda: store.spool_backlog > 0 or store.unavailable is not None)
        await delivered(store)
    after = {each.id: each for each in await stored(url)}
    assert set(after) == {each.id for each in before} | spooled
    assert all(after[each.id] == each for each in before)
    lost = {each.id for each in after.values() if each.reason == "gateway lost"}
    assert "call000800" in lost
    assert len(lost) == 1 or when == "committed"
    assert all(after[each.id] == each for each in map(ended, range(300)) if each.id in set(after) - lost)
    assert not [path for path in (tmp_path / "spool").iterdir() if path.name != "lock"]


@pytest.mark.peer("postgres")
@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_postgresql_goes_away_under_load(server: Postgres, tmp_path: Path, how: str) -> None:
    """Nothing lost, nothing twice, one line when it goes and one when it is back; the loop never waits for it."""
    url = await server.create_database()
    lags = []

    async def watch() -> None:
        while True:
            at = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - at - 0.005)

    async with Store(url, tmp_path / "spool", use_s=1.5) as store:
        watching = asyncio.create_task(watch())
        costs = []
        with capture_logs() as logs:
            for number in range(200):
                if number == 50:
                    await asyncio.to_thread(server.freeze if how == "frozen" else server.stop)
                if number == 150:
                    assert store.spool_backlog > 0
                    assert "does not answer" in str(store.unavailable) or "connection" in str(store.unavailable)
                    await asyncio.to_thread(server.thaw if how == "frozen" else server.start)
                at = time.perf_counter()
                store.begin(begun(number))
                store.end(ended(number))
                costs.append(time.perf_counter() - at)
                await asyncio.sleep(0.04)
            await delivered(store)
        watching.cancel()
    assert await stored(url) == [ended(number) for number in range(200)]
    events = [each["event"] for each in logs]
    assert events.count("store.available") == 1
    assert 1 <= events.count("store.unavailable") <= 3
    lags.sort()
    print(  # noqa: T201
        f"{how}: end worst {max(costs) * 1e3:.2f} ms; loop lag p99 {lags[len(lags) * 99 // 100] * 1e3:.1f} ms, "
        f"worst {lags[-1] * 1e3:.1f} ms; {[each.get('why') for each in logs if each['event'] == 'store.unavailable']}"
    )
    assert sorted(costs)[190] < 0.003


@pytest.mark.peer("postgres")
async def test_close_while_the_database_hangs(server: Postgres, tmp_path: Path) -> None:
    """A frozen database holds up neither the end of the gateway nor, at the next start, the records."""
    url = await server.create_database()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(url, tmp_path / "spool"))
        store.end(ended(1))
        await delivered(store)
        server.freeze()
        try:
            store.end(ended(2))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await stack.aclose()
            took_s = time.monotonic() - began
        finally:
            server.thaw()
    assert took_s < 6
    async with Store(url, tmp_path / "spool") as store:
        await delivered(store)
    assert await stored(url) == [ended(1), ended(2)]
