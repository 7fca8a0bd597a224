"""The folder where records wait until the database has them; the folder is the queue.

    ID.begun.json      a call that runs, written by the gateway that has it
    ID.ended.json      a record on its way to the database; its time of modification says whose turn it is
    gateway-*.lock     one per gateway, locked (flock) while that lives: so it is known whose calls are lost
    lock               held by whoever takes entries out: delivery, adoption, deletion; gateways may share a folder
    *.bad              what could not be read, for a person to look at

Every method blocks: threads call them, never an event loop, except ``try_lock`` and ``unlock``.
"""

import contextlib
import fcntl
import heapq
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agent.store.call_record import CallRecord
from agent.store.errors import SpoolError
from config.schema import StorageSettings

log = structlog.get_logger(__name__)

VERSION: Final = 1
"""Of an entry's JSON."""
_BEGUN: Final = ".begun.json"
_ENDED: Final = ".ended.json"
_TEMPORARY: Final = ".tmp"
_BAD: Final = ".bad"


def records_spool(storage: StorageSettings) -> Path:
    """The part of the spool that is the store's."""
    return storage.spool / "records"


@dataclass(frozen=True, slots=True)
class Begun:
    """A call that runs, or that did when its gateway died."""

    path: Path
    gateway: str
    record: CallRecord


class Spool:
    """One gateway's use of the folder; without ``open`` it only looks and deletes, as commands do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._gateway = ""
        self._alive: int | None = None
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder and say that this gateway lives. Raises ``SpoolError``."""
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            with self.locked():
                self._gateway = f"gateway-{secrets.token_hex(8)}.lock"
                self._alive = _open(self.folder / self._gateway)
                fcntl.flock(self._alive, fcntl.LOCK_EX)
        except OSError as error:
            raise SpoolError(f"spool {self.folder} cannot be used ({error.strerror}): correct storage.spool") from None

    def close(self) -> None:
        """Say that this gateway is gone; idempotent."""
        if self._alive is not None:
            with contextlib.suppress(OSError):
                (self.folder / self._gateway).unlink()
            os.close(self._alive)
            self._alive = None

    def entry(self, record: CallRecord) -> bytes:
        """What is written of a record."""
        head = json.dumps({"version": VERSION, "gateway": self._gateway})
        return f'{head[:-1]}, "record": {record.model_dump_json()}}}\n'.encode()

    def write_begun(self, call_id: str, entry: bytes) -> None:
        """Note a running call. Raises ``OSError``."""
        self._write(self.folder / f"{call_id}{_BEGUN}", entry)

    def write_ended(self, call_id: str, entry: bytes, turn_ns: int) -> None:
        """Keep an ended call's record, whatever happens to this machine from now on. Raises ``OSError``."""
        self._write(self.folder / f"{call_id}{_ENDED}", entry, turn_ns)
        self.remove_begun(call_id)

    def remove_begun(self, call_id: str) -> None:
        """Forget that a call runs. Raises ``OSError``."""
        (self.folder / f"{call_id}{_BEGUN}").unlink(missing_ok=True)

    def remove(self, call_id: str) -> None:
        """Forget a call altogether. Raises ``OSError``."""
        (self.folder / f"{call_id}{_ENDED}").unlink(missing_ok=True)
        self.remove_begun(call_id)

    def ended(self, limit: int) -> tuple[list[Path], int]:
        """The entries whose turn it is, at most ``limit``, and how many there are in all. Raises ``OSError``."""
        count = 0

        def turns() -> Iterator[tuple[int, str]]:
            nonlocal count
            for each in self._scan(_ENDED):
                with contextlib.suppress(FileNotFoundError):
                    turn = each.stat().st_mtime_ns
                    count += 1
                    yield turn, each.path

        first = heapq.nsmallest(limit, turns())
        return [Path(path) for _, path in first], count

    def waiting(self) -> int:
        """How many ended calls' entries there are. Raises ``OSError``."""
        return sum(1 for _ in self._scan(_ENDED))

    def begun(self) -> list[Begun]:
        """Every call that runs or was lost; what cannot be read is set aside. Raises ``OSError``."""
        found = []
        for each in self._scan(_BEGUN):
            path = Path(each.path)
            if (read := self._read(path)) is not None:
                found.append(Begun(path, *read))
        return found

    def read(self, path: Path) -> CallRecord | None:
        """The record of an entry; None where it is gone or was unreadable, and set aside. Raises ``OSError``."""
        entry = self._read(path)
        return entry[1] if entry else None

    def is_alive(self, gateway: str) -> bool:
        """Whether that gateway lives."""
        if gateway == self._gateway and self._alive is not None:
            return True
        try:
            probe = os.open(self.folder / os.path.basename(gateway), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(probe)
        return False

    def set_aside(self, path: Path, why: str) -> None:
        """Put an entry that is of no use where it is in nobody's way."""
        log.error("spool.entry_set_aside", file=f"{path.name}{_BAD}", folder=str(self.folder), why=why)
        with contextlib.suppress(OSError):
            path.rename(path.with_name(path.name + _BAD))

    def sweep(self) -> None:
        """Remove what dead gateways left: their locks and half-written files. The lock must be held."""
        for each in list(self._scan(".lock")):
            if each.name.startswith("gateway-") and not self.is_alive(each.name):
                Path(each.path).unlink(missing_ok=True)
        for each in list(self._scan(_TEMPORARY)):
            if not self.is_alive(each.name.partition("~")[2].removesuffix(_TEMPORARY)):
                Path(each.path).unlink(missing_ok=True)

    def unreadable(self) -> list[Path]:
        """What was set aside. Raises ``OSError``."""
        return [Path(each.path) for each in self._scan(_BAD)]

    def try_lock(self) -> bool:
        """Take the folder's lock if nobody has it; never waits. Raises ``OSError``."""
        lock = _open(self.folder / "lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        return True

    def unlock(self) -> None:
        """Let others have it; idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, however long that takes."""
        lock = _open(self.folder / "lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self, path: Path) -> tuple[str, CallRecord] | None:
        try:
            entry = json.loads(path.read_bytes())
            if entry["version"] > VERSION:
                raise ValueError(f"version {entry['version']}, of a newer Denwa")
            return str(entry["gateway"]), CallRecord.model_validate(entry["record"])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
            self.set_aside(path, str(error) if type(error) is ValueError else type(error).__name__)
            return None

    def _write(self, path: Path, entry: bytes, turn_ns: int | None = None) -> None:
        """Write all or nothing; with a turn, onto the disk itself."""
        temporary = path.with_name(f"{path.name}~{self._gateway}{_TEMPORARY}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640), "wb") as file:
            file.write(entry)
            file.flush()
            if turn_ns is not None:
                os.utime(file.fileno(), ns=(turn_ns, turn_ns))
                os.fsync(file.fileno())
        temporary.rename(path)
        if turn_ns is not None:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _scan(self, ending: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.folder) as entries:
            yield from (each for each in entries if each.name.endswith(ending))


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
