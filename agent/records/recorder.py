"""The thread that writes the recordings of all of a gateway's calls."""

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from agent.records.recording import Format, Recording

log = structlog.get_logger(__name__)

_PERIOD_S: Final = 0.25
"""How often what has come is written: with FLAC's block of 0.15 s at most half a second is lost in a crash."""
_LEAVE_WITHIN_S: Final = 10.0


class Recorder:
    """Writes recordings to disk in one thread, every quarter of a second. ``async with`` starts and ends the thread.

    At the end all recordings are closed and written, for 10 s at most: a disk that hangs holds up nobody.
    """

    def __init__(self) -> None:
        self._recordings: list[Recording] = []
        self._lock = threading.Lock()  # held for a list's copy at most
        self._work = threading.Event()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._past_dropped = 0
        self._past_failed = 0

    @property
    def dropped(self) -> int:
        """Blocks for which the disk was too slow, in all recordings."""
        with self._lock:
            return self._past_dropped + sum(each.dropped for each in self._recordings)

    @property
    def failed(self) -> int:
        """Recordings that the disk has failed."""
        with self._lock:
            return self._past_failed + sum(each.failed for each in self._recordings)

    def open(self, path: Path, file_format: Format = "flac", sample_rate: int = 24_000) -> Recording:
        """Begin a recording in a new file, mode 0640, at 24,000, 16,000 or 8,000 samples per second.

        The folder is made where it is missing. Never waits and never raises: what the disk says against it is logged.
        """
        recording = Recording(path, file_format, sample_rate, self._work.set)
        with self._lock:
            self._recordings.append(recording)
        self._work.set()
        return recording

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            recordings = list(self._recordings)
        for recording in recordings:
            recording.close()
        self._leaving.set()
        self._work.set()
        await asyncio.to_thread(self._thread.join, _LEAVE_WITHIN_S)
        if self._thread.is_alive():
            log.error("recorder.disk_hangs", recordings=len(self._recordings))

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            while recordings := self._open_ones():
                for recording in recordings:
                    if not recording.flush():
                        self._forget(recording)
                self._work.wait(_PERIOD_S)
                self._work.clear()
            if self._leaving.is_set():
                return

    def _open_ones(self) -> list[Recording]:
        with self._lock:
            return list(self._recordings)

    def _forget(self, recording: Recording) -> None:
        with self._lock:
            self._recordings.remove(recording)
            self._past_dropped += recording.dropped
            self._past_failed += recording.failed
