"""One call's recording: the event loop gives blocks, the recorder's thread writes them."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Literal, Protocol

import structlog

from agent.records.flac import FlacFile
from agent.records.stereo import Block, Samples, Stereo
from agent.records.wav import FileFull, WavFile
from telephony.call import Frame

log = structlog.get_logger(__name__)

MAX_WAITING: Final = 125
"""Blocks that may wait for the disk: 10 s, 1 MB."""

Format = Literal["flac", "wav"]


class SoundFile(Protocol):
    """A file that samples are appended to."""

    def write(self, samples: Samples) -> None:
        """Append ``int16 [n, 2]``; raises ``OSError``."""

    def close(self) -> None:
        """Close it; idempotent."""


class Recording:
    """The sound of one call: left the agent, right the caller, on the call's clock. Made by ``Recorder.open``.

    ``write`` and ``close`` never wait and never raise: a disk that is slow costs blocks (silence in their place, so
    that all later ones lie right), a disk that fails costs the recording.
    """

    def __init__(self, path: Path, file_format: Format, sample_rate: int, wake: Callable[[], None]) -> None:
        self.path = path
        self.dropped = 0
        """Blocks for which the disk was too slow."""
        self.failed = False
        """Whether the disk has failed, or the file is full: what was written before is all there is."""
        self._format = file_format
        self._rate = sample_rate
        self._wake = wake
        self._waiting: deque[Block | None] = deque()  # None: the end
        self._missed = 0
        self._closed = False
        self._done: Future[bool] = Future()
        self._file: SoundFile | None = None
        self._stereo: Stereo | None = None

    def write(self, left: Frame | None, right: Frame | None, missed: int = 0) -> None:
        """Give the next 80 ms, ``int16 [1920]`` at 24 kHz each, None for silence; ``missed`` silent blocks go before.

        The arrays are kept and must not be changed afterwards.
        """
        self._missed += missed
        if self._closed or self.failed:
            return
        if len(self._waiting) >= MAX_WAITING:
            if not self.dropped:
                log.warning("recording.disk_too_slow", path=str(self.path))
            self.dropped += 1
            self._missed += 1
            return
        self._waiting.append(Block(left, right, self._missed))
        self._missed = 0

    def close(self) -> None:
        """End the recording; the thread writes what waits. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._missed:
            self._waiting.append(Block(None, None, self._missed - 1))
        self._waiting.append(None)
        self._wake()

    async def wait_closed(self) -> bool:
        """Wait until the file is complete; False where the recording has failed."""
        return await asyncio.shield(asyncio.wrap_future(self._done))

    # The recorder's thread.

    def flush(self) -> bool:
        """Write what waits; False once the recording is over. Called by the recorder's thread only."""
        ended = False

        def waiting() -> Iterator[Block]:
            nonlocal ended
            for _ in range(len(self._waiting)):
                block = self._waiting.popleft()
                if block is None:
                    ended = True
                    return
                yield block

        try:
            self._append(waiting())
            if ended:
                self._end()
        except (OSError, ValueError) as error:
            self._fail(error)
        if self.failed:
            self._waiting.clear()
        if not ended and not (self.failed and self._closed):
            return True
        self._done.set_result(not self.failed)
        if self.dropped:
            log.warning("recording.incomplete", path=str(self.path), blocks_dropped=self.dropped)
        return False

    def _append(self, blocks: Iterator[Block]) -> None:
        if self.failed:
            return
        if self._file is None or self._stereo is None:
            self.path.parent.mkdir(0o750, parents=True, exist_ok=True)
            self._stereo = Stereo(self._rate)
            self._file = (FlacFile if self._format == "flac" else WavFile)(self.path, self._rate)
        for samples in self._stereo.push(blocks):
            self._file.write(samples)

    def _end(self) -> None:
        if self._file is not None and self._stereo is not None and not self.failed:
            self._file.write(self._stereo.end())
            self._file.close()

    def _fail(self, error: Exception) -> None:
        self.failed = True
        if isinstance(error, FileFull):
            log.warning("recording.full", path=str(self.path), error=str(error))
        else:
            log.error("recording.failed", path=str(self.path), error=str(error))
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                log.debug("recording.not_closed", path=str(self.path))
