"""Every call is recorded exactly once, whatever becomes of the database meanwhile."""

import asyncio
import contextlib
import json
import os
import re
import sqlite3
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest

from tests.peers import audio, rtp
from tests.peers.caller import call
from tests.peers.denwa import ROOT, Denwa, denwa
from tests.peers.postgres import Postgres, postgres
from tests.peers.processes import end
from tests.peers.rtp_capture import capture, streams, to_port
from tests.peers.sipp import sipp

pytestmark = [pytest.mark.peer("sipp"), pytest.mark.peer("postgres"), pytest.mark.peer("tcpdump")]

RATE = 10.0
TALK_S = 0.4
SPEECH = audio.noise(-20, 5.0, 8_000, seed=7)
SIP = {"max_calls": 60}
TRUNKS = {"pbx": {"addresses": ["127.0.0.1"]}}
Record = dict[str, Any]


async def _calls(gateway: Denwa, count: int) -> None:
    """So many short calls, each of which speaks and is answered; all of them must succeed."""
    within_s = count / RATE + 20
    result = await sipp(
        "talk", gateway.sip_port, calls=count, rate=RATE, audio=SPEECH, talk_s=TALK_S, within_s=within_s, trace=False
    )
    assert (result.successful, result.failed) == (count, 0)


def _check(records: list[Record], of_sipp: int) -> None:
    """The records are those of SIPp's calls, each once, and each says how its call was."""
    numbers = [int(match[1]) for each in records if (match := re.fullmatch(r"(\d+)-\d+@.*", each["sip_call_id"]))]
    assert sorted(numbers) == list(range(1, of_sipp + 1))
    assert len({each["id"] for each in records}) == len(records)
    for each in records:
        known = {"caller": "caller", "called": "echo", "agent": "echo", "model": "echo", "trunk": "pbx"}
        known |= {"source": "127.0.0.1", "direction": "inbound", "codec": "PCMU", "generation": 1}
        known |= {"result": "completed", "reason": "caller hung up", "sip_status": 200}
        assert {name: each[name] for name in known} == known
        started, answered, ended = (
            datetime.fromisoformat(each[f"{name}_at"]) for name in ("started", "answered", "ended")
        )
        assert started <= answered <= ended
        assert started.utcoffset() is not None
        assert 0.5 * TALK_S <= (ended - started).total_seconds() < 10
        assert each["rtp"]["sent"] >= 0.5 * TALK_S / 0.02
    received = float(np.median([each["rtp"]["received"] for each in records]))
    assert received == pytest.approx(TALK_S / 0.02, rel=0.5)


def _spooled(gateway: Denwa) -> list[str]:
    """The records that wait on disk, or that could not be read."""
    return [path.name for path in (gateway.folder / "spool" / "records").iterdir() if "lock" not in path.name]


async def _denwa_calls(gateway: Denwa, *arguments: str) -> tuple[int, str]:
    """Run ``denwa calls``: its exit code and what it wrote."""
    command = [sys.executable, "-m", "agent.cli", "calls", *arguments, "--config", str(gateway.folder / "denwa.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        await end(process, 1.0)
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_two_hundred_calls_are_recorded_in_sqlite(tmp_path: Path) -> None:
    """At 10 per second each is recorded once, as it was, and ``denwa calls`` shows them."""
    count = 200
    async with denwa(tmp_path, sip=SIP, trunks=TRUNKS) as gateway:
        await _calls(gateway, count)
        records = await gateway.wait_records(count)
        _check(records, count)
        assert _spooled(gateway) == []
        with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/denwa.db?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT count(*), count(DISTINCT sip_call_id) FROM calls").fetchone()
        assert rows == (count, count)
        await _check_commands(gateway, records)


async def _check_commands(gateway: Denwa, records: list[Record]) -> None:
    """What ``denwa calls`` prints is what the API tells, while the gateway runs."""
    latest = records[0]
    (listed, table), (exported, lines), (shown, text), (missing, sentence) = await asyncio.gather(
        _denwa_calls(gateway, "list", "--limit", "1000", "--result", "completed"),
        _denwa_calls(gateway, "export", "--form", "jsonl"),
        _denwa_calls(gateway, "show", latest["id"]),
        _denwa_calls(gateway, "show", "nosuch"),
    )
    assert (listed, exported, shown, missing) == (0, 0, 0, 1)
    rows = table.splitlines()
    assert rows[0].split() == ["STARTED", "(UTC)", "TALKED", "CALLER", "CALLED", "AGENT", "RESULT", "REASON", "ID"]
    assert [row.split()[-1] for row in rows[1:]] == [each["id"] for each in records]
    assert [json.loads(line) for line in lines.splitlines()] == records
    assert f"sip_call_id: {latest['sip_call_id']}" in text
    assert "reason: caller hung up" in text
    assert "nosuch" in sentence


async def test_postgresql_is_away_for_half_a_minute_under_load(tmp_path: Path) -> None:
    """It hangs, dies and comes back under 10 calls per second: no call notices, and each is recorded once.

    Afterwards it is down once more, and the gateway is restarted meanwhile: that costs no record either.
    """
    count, away_s, wire = 360, 30.0, tmp_path / "rtp.pcap"
    with postgres() as server:
        storage = {"database": await server.create_database()}
        async with denwa(tmp_path, sip=SIP, trunks=TRUNKS, storage=storage) as gateway:
            async with (
                call(gateway.server, "echo", SPEECH) as witness,
                capture(wire, witness.rtp_port, witness.rtp_port),
                asyncio.TaskGroup() as tasks,
            ):
                load = tasks.create_task(_calls(gateway, count), name="load")
                await gateway.wait_records(20, within_s=30)
                away_at = time.time()
                server.freeze()
                await _wait_degraded(gateway, "does not answer")
                server.kill()
                await asyncio.sleep(away_at + away_s / 2 - time.time())
                await _wait_degraded(gateway, "does not answer: start it")
                assert await gateway.metric("denwa_store_up") == 0
                assert await gateway.metric("denwa_store_spool_records") > 20
                assert await gateway.get("/v1/records") is None
                await asyncio.sleep(away_at + away_s - time.time())
                assert not load.done()
                await asyncio.to_thread(server.start)
                await gateway.wait_health(status="ok", within_s=15)
                back_at = time.time()
            records = await gateway.wait_records(count + 1)
            await gateway.wait_health(records_waiting=0, within_s=10)
            assert _spooled(gateway) == []
            assert await gateway.metric("denwa_store_up") == 1
            assert await gateway.metric("denwa_store_spool_records") == 0
            _check([each for each in records if each["sip_call_id"] != witness.call_id], count)
            assert await _rows(storage["database"]) == (count + 1, count + 1)
            _check_unharmed(to_port(streams(wire), witness.rtp_port), away_at, back_at)

            await asyncio.to_thread(server.stop)
            await _calls(gateway, 5)
            await _wait_degraded(gateway, "does not answer")
        assert len(_spooled(gateway)) == 5
        await _deliver_after_restart(tmp_path, server, storage, count + 6)


async def _deliver_after_restart(folder: Path, server: Postgres, storage: dict[str, str], count: int) -> None:
    async with denwa(folder, status="degraded", sip=SIP, trunks=TRUNKS, storage=storage) as gateway:
        assert (await gateway.health())["records_waiting"] == 5
        await _calls(gateway, 3)
        await asyncio.to_thread(server.start)
        await gateway.wait_health(status="ok", records_waiting=0, within_s=15)
        assert await _rows(storage["database"]) == (count + 3, count + 3)
        assert _spooled(gateway) == []
        exit_code, lines = await _denwa_calls(gateway, "export", "--form", "jsonl")
        assert exit_code == 0
        assert len({json.loads(line)["sip_call_id"] for line in lines.splitlines()}) == count + 3


async def _wait_degraded(gateway: Denwa, why: str) -> None:
    """Wait until /healthz says that the database is away, and why; calls may be taken all the same."""
    until = time.monotonic() + 20
    while not re.search(why, str((health := await gateway.health())["store"])):
        assert time.monotonic() < until, health
        await asyncio.sleep(0.1)
    assert (health["status"], health["http_status"], health["ready"]) == ("degraded", 200, True)
    assert "Pr1vate-w0rd" not in str(health)


def _check_unharmed(heard: list[rtp.Packet], since: float, until: float) -> None:
    """A caller's audio went on while the database was away as it did before and after, on the wire."""
    away = np.array([since <= packet.at <= until for packet in heard])[1:]
    gaps = rtp.gaps(heard)
    assert away.sum() >= 0.98 * (until - since) / rtp.PACKET_S
    assert np.percentile(gaps[away], 99) <= max(0.04, 1.2 * np.percentile(gaps[~away], 99))


async def _rows(url: str) -> tuple[int, int]:
    """Rows, and different calls among them, as another program counts them."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        row = await connection.fetchrow("SELECT count(*), count(DISTINCT sip_call_id) FROM calls")
    finally:
        await connection.close()
    return row[0], row[1]
