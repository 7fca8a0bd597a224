"""Logs as JSON lines on stderr, for Denwa's own events and for every library's, in one form.

A line is made in the thread that logs, so that the call's context is in it, and written by a thread of its own:
neither an event loop nor the engine ever waits for a slow terminal or a full pipe. The queue is bounded; when
whoever reads stderr falls behind, lines are dropped and the next one written says how many. The rest is flushed
at exit, for two seconds at most. Runs in each of Denwa's processes.
"""

import atexit
import logging
import queue
import sys
import threading
from typing import Final, TextIO

import structlog

from config.redaction import Redactor

MAX_LINES: Final = 10_000
"""Lines that may wait to be written."""
_FLUSH_S: Final = 2.0
_CHATTY: Final = ("asyncio", "httpx", "uvicorn.access", "websockets")
"""Loggers that speak of every request or connection; heard below ``warning`` only at level ``debug``."""

_NAMES: Final = frozenset({
    "timestamp", "level", "event", "logger", "call", "sip_call_id", "id", "url", "path", "file", "folder", "source",
    "pid", "agent", "model", "receiver",
})  # fmt: skip
"""Keys whose values name something, and hold nothing that was said."""

_SHARED: Final[list[structlog.typing.Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
]
_JSON: Final = structlog.processors.JSONRenderer(default=str)


class LogWriter:
    """A thread that writes lines to a stream. ``write`` never waits; ``close`` flushes and is idempotent."""

    def __init__(self, stream: TextIO, max_lines: int = MAX_LINES) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(max_lines)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._closed = False
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue a line, its newline included; once closed, write it at once."""
        if self._closed:
            self._put(line)
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Nothing: the thread flushes after every line. There because a stream has it."""

    def close(self) -> None:
        """Write what is queued, within two seconds."""
        if self._closed:
            return
        self._closed = True
        try:
            self._lines.put(None, timeout=_FLUSH_S)
        except queue.Full:
            return
        self._thread.join(_FLUSH_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._put(line)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                structlog.get_logger().warning("log lines dropped", count=dropped)

    def _put(self, line: str) -> None:
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # stderr is gone; there is nowhere left to say so


class _Libraries(logging.StreamHandler[LogWriter]):
    """A library's records as the same JSON lines; ``logging`` wants a handler."""

    def __init__(self, writer: LogWriter, blackened: structlog.typing.Processor) -> None:
        super().__init__(writer)
        formatter = structlog.stdlib.ProcessorFormatter
        self.setFormatter(
            formatter(
                processors=[formatter.remove_processors_meta, blackened, _JSON],
                foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            )
        )


class _Blackened:
    """A processor that redacts every text of a line but those that name things (ids, addresses, times, events)."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if self._redactor:
            for key, value in event.items():
                if isinstance(value, str) and key not in _NAMES:
                    event[key] = self._redactor.redact(value)
        return event


def configure(level: str = "info", stream: TextIO | None = None, redactor: Redactor | None = None) -> LogWriter:
    """Send every log line of this process, from ``level`` up, to ``stream`` (default: stderr) as JSON.

    What ``redactor`` finds in a line's texts is blackened. May be called again; the writer before is closed. The
    returned writer closes itself at exit.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    writer = LogWriter(sys.stderr if stream is None else stream)
    atexit.register(writer.close)
    blackened = _Blackened(redactor or Redactor())
    structlog.configure(
        processors=[*_SHARED, blackened, _JSON],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=writer),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for former in [each for each in root.handlers if isinstance(each, _Libraries)]:
        root.removeHandler(former)
        former.stream.close()
    root.addHandler(_Libraries(writer, blackened))
    root.setLevel(threshold)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(threshold if level == "debug" else max(threshold, logging.WARNING))
    return writer
