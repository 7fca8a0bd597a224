"""What was said in a call, one JSON line per piece of text, on disk the moment it is known."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger(__name__)


class Transcript:
    """A call's transcript file: lines ``{"t": seconds since the answer, "speaker": ..., "text": ...}``.

    Every piece is written as it comes, by one ``write`` to a file opened for appending, so a killed process loses
    nothing. The texts of one speaker, joined, are what was said: a piece that begins a word begins with a space.
    A disk that fails costs the transcript, never the call.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            log.error("transcript.failed", path=str(self.path), error=str(error))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def add(self, at_s: float, speaker: str, text: str) -> None:
        """Append ``text``, spoken at ``at_s`` seconds after the answer."""
        if self._fd is None:
            return
        line = json.dumps({"t": round(at_s, 2), "speaker": speaker, "text": text}, ensure_ascii=False) + "\n"
        try:
            os.write(self._fd, line.encode())
        except OSError as error:
            log.error("transcript.failed", path=str(self.path), error=str(error))
            self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
