"""agent/events/journal.py: what is on disk after any end of a process, and never more than allowed."""

from pathlib import Path

from agent.events.journal import Journal, Record


def _record(number: int, call: str = "a", size: int = 10) -> Record:
    return Record(call, 1000.0 + number, f"evt_{number}", b'{"n":"' + str(number).zfill(size).encode() + b'"}')


def _ids(journal: Journal, found: list[tuple[str, int]]) -> list[str]:
    read = [journal.read(position) for _, position in found]
    return [record[0].id for record in read if record is not None]


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    """A second journal on the folder finds what the first one left, without a close; done events are gone."""
    first = Journal(tmp_path)
    positions = first.append([_record(0), _record(1, "b / ü"), _record(2, "")]) + first.append([_record(3)])
    read = first.read(positions[0])
    assert read is not None
    assert read[0] == _record(0)
    first.erase([(positions[0], read[1])])
    second = Journal(tmp_path)
    found = second.open()
    assert [call for call, _ in found] == ["b / ü", "", "a"]
    assert _ids(second, found) == ["evt_1", "evt_2", "evt_3"]
    assert b"evt_0" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    """Half a line at the end, blackened halves and nonsense cost nothing else."""
    whole = _record(1).line()
    (tmp_path / f"{0:020}.events").write_bytes(b"   3.000 evt_0 a {}\n\xff\xfe\n\n" + whole + _record(2).line()[:-5])
    journal = Journal(tmp_path)
    assert _ids(journal, journal.open()) == ["evt_1"]
    assert _ids(journal, [("a", position) for position in journal.append([_record(3)])]) == ["evt_3"]


def test_nothing_is_left_when_all_is_done(tmp_path: Path) -> None:
    """A journal whose events are all done takes no space."""
    journal = Journal(tmp_path, max_bytes=64 * 256)
    for number in range(50):
        (position,) = journal.append([_record(number, size=100)])
        read = journal.read(position)
        assert read is not None
        journal.erase([(position, read[1])])
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1024
    journal.close()
    assert not list(tmp_path.iterdir())


def test_a_journal_is_bounded(tmp_path: Path) -> None:
    """Beyond its bound the oldest events are given up, and the floor says which."""
    journal = Journal(tmp_path, max_bytes=64 * 256)
    positions = [journal.append([_record(number, size=100)])[0] for number in range(500)]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 64 * 256 + 256
    given_up = [position for position in positions if position < journal.floor]
    assert 300 < len(given_up) < 450
    assert all(journal.read(position) is None for position in given_up)
    kept = [position for position in positions if position >= journal.floor]
    assert len(_ids(journal, [("a", position) for position in kept])) == len(kept)
    journal.erase([(position, 10) for position in given_up])
