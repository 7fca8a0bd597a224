"""agent/store/spool.py, adoption.py."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.store.adoption import adopt
from agent.store.errors import SpoolError
from agent.store.spool import Spool
from tests.agent.store.records import START, begun, ended, files


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An open spool."""
    made = Spool(tmp_path / "spool")
    made.open()
    yield made
    made.close()


def _die_with(folder: Path, *lines: str) -> None:
    """Another gateway that uses the folder, does what the lines say, and is killed."""
    script = [
        "import os, signal, sys",
        "from pathlib import Path",
        "from agent.store.spool import Spool",
        "from tests.agent.store.records import begun, ended, files",
        "spool = Spool(Path(sys.argv[1])); spool.open()",
        *lines,
        "os.kill(os.getpid(), signal.SIGKILL)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(script), folder], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


def _write_begun(spool: Spool, number: int) -> None:
    spool.write_begun(begun(number).id, spool.entry(begun(number)))


def test_entries_come_in_the_order_of_their_turns(spool: Spool) -> None:
    """Whatever their names and whenever they were written; a limit leaves the later ones."""
    for turn, number in ((30, 1), (10, 3), (20, 2)):
        spool.write_ended(ended(number).id, spool.entry(ended(number)), turn)
    paths, count = spool.ended(2)
    assert [spool.read(path) for path in paths] == [ended(3), ended(2)]
    assert count == 3


def test_an_ended_call_is_begun_no_more(spool: Spool) -> None:
    """The entry of a running call goes when the one of its end is there; nothing half-written stays."""
    _write_begun(spool, 1)
    assert [each.record for each in spool.begun()] == [begun(1)]
    spool.write_ended(ended(1).id, spool.entry(ended(1)), 1)
    assert spool.begun() == []
    names = {path.name.partition("-")[0] for path in spool.folder.iterdir()}
    assert names == {"lock", "gateway", "call000001.ended.json"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"version": 1}',
        b'{"version": 1, "gateway": "g", "record": {"id": "x"}}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_set_aside(spool: Spool, content: bytes) -> None:
    """It blocks nothing, is kept for a person to look at, and its content stays out of the log."""
    path = spool.folder / "x.ended.json"
    path.write_bytes(content)
    with capture_logs() as logs:
        assert spool.read(path) is None
    assert not path.exists()
    assert (spool.folder / "x.ended.json.bad").read_bytes() == content
    assert [each["event"] for each in logs] == ["spool.entry_set_aside"]
    assert spool.ended(10) == ([], 0)


def test_an_entry_of_a_newer_denwa_is_set_aside(spool: Spool) -> None:
    """A program that was taken back to an older version says why it leaves records alone."""
    path = spool.folder / "x.ended.json"
    path.write_bytes(spool.entry(ended(1)).replace(b'"version": 1', b'"version": 2'))
    with capture_logs() as logs:
        assert spool.read(path) is None
    assert logs[0]["why"] == "version 2, of a newer Denwa"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in its place is the operator's mistake, told at the start."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool").open()


def test_the_calls_of_a_living_gateway_are_its_own(spool: Spool) -> None:
    """Two gateways share a folder: neither takes the other's running calls for lost."""
    _write_begun(spool, 1)
    other = Spool(spool.folder)
    other.open()
    with other.locked():
        assert adopt(other, None) == 0
    other.close()
    assert [each.record for each in spool.begun()] == [begun(1)]


def test_a_killed_gateways_calls_are_recorded(spool: Spool, tmp_path: Path) -> None:
    """They have failed, at the time of the last sign of life; their transcripts are finished; its traces are gone."""
    made = tmp_path / "calls"
    _die_with(
        spool.folder,
        f"paths = files(Path({str(made)!r}), 'one')",
        "one = begun(1, recording=paths['recording'], transcript=paths['transcript'], text='/nowhere')",
        "spool.write_begun(one.id, spool.entry(one))",
        "spool.write_begun('call000002', spool.entry(begun(2)))",
        "(spool.folder / f'half.begun.json~{spool._gateway}.tmp').write_text('half')",
    )
    os.utime(made / "one.flac", (2**31, 2**31))
    finished: list[tuple[Path, Path | None]] = []
    with spool.locked():
        assert adopt(spool, lambda *given: finished.append(given)) == 2
        assert adopt(spool, lambda *given: finished.append(given)) == 0
    assert finished == [(made / "one.jsonl", made / "one.flac")]
    one, two = (record for path in spool.ended(10)[0] if (record := spool.read(path)) is not None)
    assert (one.result, one.reason, one.ended_at) == ("failed", "gateway lost", datetime.fromtimestamp(2**31, UTC))
    assert one.files == {name: path for name, path in files(made, "one").items() if name != "text"}
    assert two.result == "failed"
    assert two.ended_at is not None
    assert two.ended_at > START
    left = {path.name for path in spool.folder.iterdir()}
    assert {name for name in left if name.endswith((".tmp", ".begun.json"))} == set()
    assert len([name for name in left if name.startswith("gateway-")]) == 1


def test_a_call_that_ended_just_before_its_gateway_died(spool: Spool) -> None:
    """The record of its end stands; it is not made anew."""
    _die_with(
        spool.folder,
        "spool.write_ended('call000001', spool.entry(ended(1)), 1)",
        "spool.write_begun('call000001', spool.entry(begun(1)))",
    )
    with spool.locked():
        adopt(spool, None)
    paths, _ = spool.ended(10)
    assert [spool.read(path) for path in paths] == [ended(1)]
    assert spool.begun() == []


def test_a_transcript_that_cannot_be_finished_costs_no_record(spool: Spool, tmp_path: Path) -> None:
    """The call is recorded all the same."""
    _die_with(
        spool.folder,
        f"one = begun(1, **files(Path({str(tmp_path)!r}), 'one'))",
        "spool.write_begun(one.id, spool.entry(one))",
    )

    def finish(path: Path, recording: Path | None) -> None:
        raise OSError("no room")

    with spool.locked(), capture_logs() as logs:
        assert adopt(spool, finish) == 1
    assert [each["event"] for each in logs] == ["store.transcript_unfinished", "store.call_lost"]
    assert len(spool.ended(10)[0]) == 1
