"""Logs: JSON lines of one form, written by a thread that nobody waits for."""

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from config.logs import LogWriter, configure
from config.redaction import Redactor


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines that were written."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Stuck(io.StringIO):
    """A stream nobody reads: a write waits for ``read``."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()
        self.read = threading.Event()

    def write(self, text: str) -> int:
        """Wait to be read, five seconds at most."""
        self.waiting.set()
        self.read.wait(5)
        return super().write(text)


def test_own_events_and_libraries_speak_alike() -> None:
    """Both give one JSON object per line with time in UTC, level, event and the call's context."""
    stream = io.StringIO()
    writer = configure("info", stream)
    with structlog.contextvars.bound_contextvars(call="c1"):
        structlog.get_logger().info("call ended", cause="line one\nline two\u2028")
        logging.getLogger("uvicorn.error").warning("it is %s", "late")
    writer.close()
    own, library = lines(stream)
    assert own["event"] == "call ended"
    assert own["cause"] == "line one\nline two\u2028"
    assert library["event"] == "it is late"
    assert library["logger"] == "uvicorn.error"
    assert [each["level"] for each in (own, library)] == ["info", "warning"]
    assert all(each["call"] == "c1" and each["timestamp"].endswith("Z") for each in (own, library))


def test_lines_below_the_level_are_not_written() -> None:
    """The level holds for Denwa and for libraries; those that speak of every connection are kept to warnings."""
    stream = io.StringIO()
    writer = configure("info", stream)
    structlog.get_logger().debug("no")
    logging.getLogger("x").debug("no")
    logging.getLogger("websockets.server").info("no")
    logging.getLogger("x").info("yes")
    writer.close()
    assert [each["event"] for each in lines(stream)] == ["yes"]


def test_a_traceback_is_part_of_its_line() -> None:
    """An exception is one line of JSON like everything else."""
    stream = io.StringIO()
    writer = configure("info", stream)
    try:
        raise KeyError("k")
    except KeyError:
        structlog.get_logger().exception("failed")
        logging.getLogger("x").exception("failed")
    writer.close()
    assert all("KeyError: 'k'" in each["exception"] for each in lines(stream))


def test_logging_never_waits_for_the_reader() -> None:
    """When nobody reads stderr, lines are dropped and counted; the thread that logs goes on at once."""
    stream = Stuck()
    writer = LogWriter(stream, max_lines=10)
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=writer), processors=[_event])  # type: ignore[arg-type]
    writer.write("first\n")
    assert stream.waiting.wait(5)
    started = time.monotonic()
    for number in range(100):
        writer.write(f"{number}\n")
    assert time.monotonic() - started < 1
    stream.read.set()
    for _ in range(500):
        if "dropped" in stream.getvalue():
            break
        time.sleep(0.01)
    writer.close()
    assert stream.getvalue().splitlines() == ["first", *map(str, range(10)), "log lines dropped 90"]


def test_close_flushes_and_later_lines_still_come_out() -> None:
    """What was queued is written by close, which may be called twice; lines after it are written at once."""
    stream = io.StringIO()
    writer = LogWriter(stream)
    for number in range(1_000):
        writer.write(f"{number}\n")
    writer.close()
    writer.close()
    writer.write("late\n")
    assert stream.getvalue().splitlines() == [*map(str, range(1_000)), "late"]


def test_a_lost_stream_is_no_fault() -> None:
    """A closed stderr ends neither the thread nor whoever logs."""
    stream = io.StringIO()
    stream.close()
    writer = LogWriter(stream)
    writer.write("a\n")
    writer.close()
    writer.write("b\n")


def _event(_logger: object, _name: str, event: structlog.typing.EventDict) -> str:
    return f"{event['event']} {event['count']}"


def test_what_must_not_be_written_down_is_blackened() -> None:
    """In own events and in those of libraries; names of things, such as addresses and ids, stay as they are."""
    stream = io.StringIO()
    writer = configure("info", stream, Redactor(["card_number", "email"]))
    structlog.get_logger().info("call.started", caller="4111 1111 1111 1111", call="4111111111111111", steps=7)
    logging.getLogger("library").warning("mail to anna@example.com failed")
    writer.close()
    own, library = lines(stream)
    assert (own["caller"], own["call"], own["steps"]) == ("[card_number]", "4111111111111111", 7)
    assert library["event"] == "mail to anna@example.com failed"
