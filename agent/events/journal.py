"""Events that wait on disk for one receiver, so that a killed gateway's are delivered after its restart.

A folder of segments, each a file of lines ``TIME ID CALL BODY`` named after its position in the journal. Lines are
appended; a delivered one is overwritten with spaces, so that nothing said stays behind; a segment of nothing but
spaces is removed. Blocking: used by one thread at a time, never the event loop. Nothing is synced: what was written
survives the death of the process, not always that of the machine. A full or broken disk costs the safety, not the
delivery: up to 1,000 events wait in memory then.
"""

import contextlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import structlog

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 256 * 1024 * 1024
"""What one receiver's journal may take on disk; beyond it the oldest segment is given up."""
_IN_MEMORY: Final = 1_000
_SEGMENTS: Final = 64
_CHUNK: Final = 8_192


@dataclass(frozen=True, slots=True)
class Record:
    """An event as it waits: ``at`` in Unix seconds, ``body`` one line of JSON."""

    call: str
    at: float
    id: str
    body: bytes

    def line(self) -> bytes:
        """The record as a line of a segment."""
        return f"{self.at:.3f} {self.id} {quote(self.call, safe='')} ".encode() + self.body + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Record | None":
        """The record of a line with its end; None for a delivered, torn or foreign one."""
        parts = line[:-1].split(b" ", 3)
        if line[-1:] != b"\n" or len(parts) != 4 or not parts[3].startswith(b"{"):
            return None
        try:
            return cls(unquote(parts[2].decode()), float(parts[0]), parts[1].decode(), parts[3])
        except ValueError:
            return None


@dataclass(slots=True)
class _Segment:
    base: int
    path: Path
    size: int = 0
    live: int = 0
    """Events in it that are not done."""


class Journal:
    """One receiver's events on disk. A position is a byte's number since the journal's beginning."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.floor = 0
        """What lies before this position was given up for want of space."""
        self._max_bytes = max_bytes
        self._segments: list[_Segment] = []
        self._unwritten: dict[int, Record] = {}
        self._end = 0
        self._fd: int | None = None
        self._broken = False

    def open(self) -> list[tuple[str, int]]:
        """Read what a process before left; return call and position of each event, the oldest first."""
        self._roll()
        self._segments = []
        found: list[tuple[str, int]] = []
        for path in sorted(self.folder.glob("*.events")) if self.folder.is_dir() else []:
            with contextlib.suppress(ValueError, OSError):
                segment = _Segment(int(path.stem), path, path.stat().st_size)
                for position, record in self._scan(segment):
                    found.append((record.call, position))
                    segment.live += 1
                self._segments.append(segment)
                self._end = max(self._end, segment.base + segment.size)
        self._clear()
        return found + [(record.call, position) for position, record in self._unwritten.items()]

    def append(self, records: Sequence[Record]) -> list[int]:
        """Store events; return their positions. Never raises ``OSError``."""
        lines = [record.line() for record in records]
        try:
            segment = self._current()
            start = segment.base + segment.size
            self._write(segment, b"".join(lines))
            segment.live += len(lines)
        except OSError as error:
            self._fail(error)
            self._roll()
            return self._keep(records, lines)
        self._broken = False
        positions = []
        for line in lines:
            positions.append(start)
            start += len(line)
        self._end = start
        self._bound()
        return positions

    def read(self, position: int) -> tuple[Record, int] | None:
        """An event and the length of its line; None where it is there no more."""
        if kept := self._unwritten.get(position):
            return kept, 0
        if not self._segments or position < self._segments[0].base:
            return None
        segment = self._segment(position)
        try:
            with segment.path.open("rb", buffering=_CHUNK) as file:
                file.seek(position - segment.base)
                line = file.readline()
        except OSError as error:
            self._fail(error)
            return None
        record = Record.parse(line)
        return None if record is None else (record, len(line))

    def erase(self, done: Iterable[tuple[int, int]]) -> None:
        """Blacken events that are done: pairs of position and length."""
        for position, length in done:
            if self._unwritten.pop(position, None) or not self._segments or position < self._segments[0].base:
                continue
            segment = self._segment(position)
            segment.live -= 1
            if segment.live or segment is self._segments[-1]:
                self._blank(segment, position, length)
        self._clear()

    def close(self) -> None:
        """Let go of the files; those that hold nothing are removed. Idempotent."""
        self._roll()
        self._clear()

    def _scan(self, segment: _Segment) -> Iterator[tuple[int, Record]]:
        position = segment.base
        with segment.path.open("rb") as file:
            for line in file:
                if record := Record.parse(line):
                    yield position, record
                position += len(line)

    def _segment(self, position: int) -> _Segment:
        return self._segments[bisect_right(self._segments, position, key=lambda each: each.base) - 1]

    def _current(self) -> _Segment:
        """The segment that is written to; raises ``OSError``."""
        if self._fd is not None and self._segments[-1].size < self._max_bytes // _SEGMENTS:
            return self._segments[-1]
        self._roll()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self._end:020}.events"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        self._segments.append(_Segment(self._end, path))
        return self._segments[-1]

    def _write(self, segment: _Segment, data: bytes) -> None:
        assert self._fd is not None
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, segment.size)
            self._end += len(data)  # whatever stays of it on disk, these positions are taken
            raise
        segment.size += len(data)

    def _blank(self, segment: _Segment, position: int, length: int) -> None:
        try:
            fd = os.open(segment.path, os.O_WRONLY)
            try:
                os.pwrite(fd, b" " * (length - 1), position - segment.base)
            finally:
                os.close(fd)
        except OSError as error:
            self._fail(error)

    def _keep(self, records: Sequence[Record], lines: Sequence[bytes]) -> list[int]:
        """Hold in memory what the disk did not take; the oldest beyond 1,000 is lost."""
        positions = []
        for record, line in zip(records, lines, strict=True):
            self._unwritten[self._end] = record
            positions.append(self._end)
            self._end += len(line)
        while len(self._unwritten) > _IN_MEMORY:
            del self._unwritten[next(iter(self._unwritten))]
        return positions

    def _bound(self) -> None:
        """Give up the oldest segments where there is too much."""
        total = sum(segment.size for segment in self._segments)
        while total > self._max_bytes and len(self._segments) > 1:
            oldest = self._segments.pop(0)
            total -= oldest.size
            self.floor = self._segments[0].base
            self._remove(oldest)

    def _clear(self) -> None:
        """Remove segments without a live event; the one that is written to only when it has grown."""
        if self._fd is not None and not self._segments[-1].live:
            if self._segments[-1].size < self._max_bytes // _SEGMENTS // 4:
                last = [self._segments.pop()]
            else:
                self._roll()
                last = []
        else:
            last = []
        for segment in [each for each in self._segments if not each.live]:
            self._remove(segment)
        self._segments = [each for each in self._segments if each.live] + last

    def _roll(self) -> None:
        """Close the segment that is written to; the next event begins another."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _remove(self, segment: _Segment) -> None:
        with contextlib.suppress(FileNotFoundError):
            try:
                segment.path.unlink()
            except PermissionError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        if not self._broken:
            log.error("events.disk_failed", folder=str(self.folder), error=error.strerror)
        self._broken = True
