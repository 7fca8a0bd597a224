"""What was said in a call, on disk while it runs. Used on the gateway's event loop."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from agent.records.forms import finish
from agent.records.segments import Numbers, Segment, Spoken, WordOf
from agent.records.timeline import Timeline
from agent.records.voice import Voice
from agent.records.words import Heard
from config.audio import SAMPLE_RATE
from config.redaction import Redactor

log = structlog.get_logger(__name__)

LISTENER_LAG_S: Final = 3.0
"""How late, at most, a speech-to-text model tells a word of the caller's."""


@dataclass(frozen=True, slots=True)
class About:
    """What stands at the head of a transcript; nobody's words or numbers."""

    call: str
    agent: str
    language: str
    answered_at: datetime


class Transcript:
    """A call's transcript: words and segments as JSON lines while it runs, WebVTT and plain text at its end.

    The first line tells of the call (``call``, ``agent``, ``language``, ``time``). Then, for each word as it is
    complete, ``{"t": start, "end": end, "speaker": "agent" or "caller", "text": " word", "segment": number}``, with
    ``"cut": true`` where nobody heard it; and for each segment that is closed a line without ``text``, with
    ``interrupted``, ``scripted`` and ``cut`` where true. A segment may be told twice, when it shows late that it was
    interrupted: the last line counts. The texts of one speaker, joined, are what was said. Seconds on the call's clock.

    Each line is one ``write`` to a file opened for appending, so a killed process loses no word that was complete
    (with a redactor: those that it holds back, agent/records/blackening.py); ``forms.finish`` then makes the rest.
    A disk that fails costs the transcript, never the call: nothing here raises.

    ``open`` begins the file, ``close`` ends it, ``wait_closed`` makes the forms; ``async with`` does all three.
    """

    def __init__(
        self,
        path: Path,
        about: About,
        timeline: Timeline,
        *,
        redactor: Redactor | None = None,
        recording: Path | None = None,
        on_segment: Callable[[Segment], None] | None = None,
    ) -> None:
        """``path``: the ``.jsonl``. ``recording``: the sound file, where there is one; its words go beside it."""
        self.path = path
        self._about = about
        self._timeline = timeline
        self._recording = recording
        self._on_segment = on_segment
        self._fd: int | None = None
        self._closed = False
        self._whole = False
        numbers = Numbers()
        self._agent = Voice("agent", timeline, numbers, redactor)
        self._caller = Voice("caller", Heard(), numbers, redactor, LISTENER_LAG_S)

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()

    def open(self) -> None:
        """Begin the file; its folder is made where it is missing."""
        try:
            self.path.parent.mkdir(0o750, parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            self._failed(error)
        about = self._about
        self._write(
            {
                "call": about.call,
                "agent": about.agent,
                "language": about.language,
                "time": about.answered_at.isoformat(timespec="milliseconds"),
            }
        )

    def add(self, position: int, piece: str, scripted: bool = False) -> None:
        """Take a piece of the agent's text; ``position`` is what ``Call.play`` returned for its frame."""
        self._agent.add(position, piece, scripted, self._timeline.now_s)

    def add_caller(self, at_s: float, piece: str) -> None:
        """Take a piece of the caller's words, which began at ``at_s``."""
        self._caller.add(round(max(0.0, at_s) * SAMPLE_RATE), piece, False, self._timeline.now_s)

    def advance(self, now_s: float) -> None:
        """Write what is complete at ``now_s``: after ``Timeline.advance``, once per block."""
        if not self._closed:
            self._advance(now_s)

    def interrupted(self, at_s: float) -> None:
        """The caller cut in at ``at_s``, and the agent has given way."""
        late = self._agent.interrupted(at_s, self._timeline.now_s)
        if late is not None:
            self._write(_end_of(late))

    def close(self) -> None:
        """Write what is left: the call is over. Idempotent; the forms are still to be made."""
        if self._closed:
            return
        self._closed = True
        self._timeline.close()
        self._advance(self._timeline.now_s, final=True)
        if self._fd is not None:
            self._whole = True
            os.close(self._fd)
            self._fd = None

    async def wait_closed(self) -> None:
        """Make the forms of the closed transcript, in a thread: 60 to 90 ms for a call of an hour. Idempotent."""
        if not self._whole:
            return
        self._whole = False
        try:
            await asyncio.to_thread(finish, self.path, self._recording)
        except OSError as error:
            self._failed(error)

    def _advance(self, now_s: float, *, final: bool = False) -> None:
        for voice in (self._agent, self._caller):
            for told in voice.advance(now_s, final=final):
                if isinstance(told, WordOf):
                    self._write(_line_of(told))
                    continue
                self._write(_end_of(told))
                if self._on_segment is not None and told.words:
                    self._on_segment(told.segment())

    def _write(self, line: dict[str, object]) -> None:
        if self._fd is None:
            return
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode(errors="replace")
        try:
            if os.write(self._fd, data) < len(data):
                raise OSError("the disk is full")
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        log.error("transcript.failed", path=str(self.path), error=str(error))
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _line_of(told: WordOf) -> dict[str, object]:
    word, spoken = told.word, told.spoken
    assert word.start is not None
    line: dict[str, object] = {"t": round(word.start, 3), "end": round(word.end, 3), "speaker": spoken.speaker}
    line |= {"text": word.text, "segment": spoken.number}
    return line | ({"cut": True} if word.cut else {})


def _end_of(spoken: Spoken) -> dict[str, object]:
    line: dict[str, object] = {"t": round(spoken.start, 3), "end": round(spoken.end, 3), "speaker": spoken.speaker}
    marks = {"interrupted": spoken.interrupted, "scripted": spoken.scripted, "cut": spoken.cut}
    return line | {"segment": spoken.number} | {name: True for name, given in marks.items() if given}
