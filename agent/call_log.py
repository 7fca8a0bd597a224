"""What is observed and kept of one call while it runs, and its record at the end. Runs on the gateway's event loop.

The session tells it of each frame after that has gone its way; nothing here can hold up, change or end a call.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from agent.actions.outcome import ActionOutcome
from agent.dialogue import Step
from agent.facilities import Facilities
from agent.generation import Persona
from agent.measures.conversation import ConversationMeasures
from agent.measures.frame_trace import FrameTrace
from agent.measures.tracing import CallSpans, Part
from agent.records.recording import Recording
from agent.records.segments import Segment
from agent.records.timeline import Timeline
from agent.records.transcript import About, Transcript
from agent.store.call_record import CallRecord
from agent.store.retention import keep_until
from config.audio import FRAME_S
from config.redaction import Redactor
from telephony.call import Frame, LineTime
from telephony.end_cause import EndCause
from telephony.transfer import Transfer

log = structlog.get_logger(__name__)

_FILE_WITHIN_S: Final = 5.0
"""How long the end of a recording may take; a call's record does not wait longer for it."""
_UNANSWERED: Final = 64
"""Frames of the caller whose answers may be on their way."""


class CallLog:
    """The log of one call, which begins with its record as far as that is known."""

    def __init__(self, record: CallRecord, persona: Persona, redactor: Redactor, to: Facilities) -> None:
        self.measures = ConversationMeasures(self._barged_in)
        self.trace = FrameTrace()
        self.spans = CallSpans(record.id, record.agent, record.model, record.started_at.timestamp())
        self._record = record
        self._persona = persona
        self._redactor = redactor
        self._to = to
        self._timeline = Timeline()
        self._transcript: Transcript | None = None
        self._recording: Recording | None = None
        self._silenced = False
        self._times: deque[tuple[float, float]] = deque(maxlen=_UNANSWERED)
        to.store.begin(record)
        self._tell("call.started", {name: getattr(record, name) for name in _STARTED})

    @property
    def answered(self) -> bool:
        """Whether the call has been answered."""
        return self._record.answered_at is not None

    @property
    def now_s(self) -> float:
        """The time on the call's clock: how much of the line has come."""
        return self._timeline.now_s

    def status(self) -> dict[str, Any]:
        """What the API tells of the running call."""
        record = self._record
        return {
            **{name: getattr(record, name) for name in ("id", *_STARTED, "language", "started_at", "answered_at")},
            "now_s": round(self.now_s, 2),
            "conversation": self.measures.summary(),
            "actions": record.actions,
        }

    def describe(self) -> dict[str, Any]:
        """What a web server that an action asks is told of the call."""
        record = self._record
        return {"call": record.id, **{name: getattr(record, name) for name in _DESCRIBED}}

    # What the session tells.

    def ringing(self) -> None:
        """180 is sent."""
        self.spans.ringing_at = time.time()

    def answering(self) -> None:
        """200 is sent."""
        self.spans.answering_at = time.time()

    def confirmed(self, codec: str) -> None:
        """The call is up: from here on it is kept as its agent says."""
        if self.answered:
            return
        now = datetime.now(UTC)
        self.spans.confirmed_at = now.timestamp()
        self._record = self._record.changed(answered_at=now, codec=codec, **self._open_files(now))
        self._to.store.begin(self._record)
        self._tell("call.answered", {"codec": codec})

    def line(self, frame: Frame, at: LineTime, received_at: float) -> None:
        """80 ms of the line: the caller's, sent to the model already, and what he was sent meanwhile."""
        self.trace.sent(at, received_at, time.monotonic())
        self.trace.said(at)
        sent = self._timeline.advance(at)
        at_s = at.number * FRAME_S
        self._times.append((at.captured_at, at_s))
        self.measures.block(sent, frame, at_s)
        if self._recording is not None:
            left, right = (None, None) if self._silenced else (sent, frame)
            self._recording.write(left, right, self._timeline.missed)
        if self._transcript is not None:
            self._transcript.advance(self._timeline.now_s)

    def model(self, step: Step) -> None:
        """A step's answer, on its way to the caller already."""
        frame, position = step.frame, step.position
        now = time.monotonic()
        self.trace.answered(frame.captured_at, frame.wait_ms, frame.step_ms, step.answered_at, now, position)
        if position >= 0:
            self._timeline.played(position, step.pcm)
        if self._transcript is None:
            return
        if frame.text:
            self._transcript.add(position, frame.text, frame.scripted)
        if frame.caller_text and self._persona.config.transcript.caller:
            heard_at_s = next((at_s for captured, at_s in self._times if captured == frame.captured_at), self.now_s)
            self._transcript.add_caller(heard_at_s - step.caller_lag_s, frame.caller_text)

    def silence_recording(self, silenced: bool) -> None:
        """Whether the recording is silent for now: its agent lets it begin with the caller's consent."""
        self._silenced = silenced and self._persona.config.recording.begin == "consent"

    def pressed(self, key: str) -> None:
        """The caller has pressed a key."""
        self._tell("dtmf", {"key": key, "at_s": round(self.now_s, 2)})

    def acted(self, outcome: ActionOutcome) -> None:
        """An action has run."""
        self._record = self._record.changed(actions=[*self._record.actions, self._redacted(outcome.as_dict())])
        self._to.metrics.actions.labels(outcome.name, outcome.result).inc()
        ended = time.time()
        self.spans.parts.append(
            Part.action(outcome.name, outcome.trigger, outcome.result, ended - outcome.duration_s, ended)
        )
        self._tell("action", outcome.as_dict())

    def transferred(self, target: str, outcome: Transfer, seconds: float) -> None:
        """A transfer has an outcome."""
        said = {"target": target, "accepted": outcome.accepted, "status": outcome.status, "reason": outcome.reason}
        log.info("call.transfer", accepted=outcome.accepted, status=outcome.status)
        self._to.metrics.transfers.labels("accepted" if outcome.accepted else "failed").inc()
        ended = time.time()
        self.spans.parts.append(Part.transfer(outcome.accepted, outcome.status, ended - seconds, ended))
        self._tell("transfer", said)

    def switched(self, persona: Persona) -> None:
        """Another agent goes on; what is kept, and how, stays as it was."""
        log.info("call.switched", agent=persona.name)
        self._record = self._record.changed(
            agent=persona.name, model=persona.config.model, language=persona.config.language
        )

    def alert(self, kind: str, message: str) -> None:
        """Something that somebody should look into."""
        log.warning("call.alert", kind=kind, message=message)
        self._to.metrics.alerts.labels(kind).inc()
        self._tell("alert", {"kind": kind, "message": message})

    async def close(self, cause: EndCause, rtp: Mapping[str, float], variables: Mapping[str, str]) -> None:
        """The call is over: finish its files, keep its record, tell and count it. Never raises for a disk."""
        ended = datetime.now(UTC)
        self.measures.close()
        await self._close_files()
        summary = self.measures.summary() if self.answered else {}
        self._record = keep_until(
            self._record.changed(
                ended_at=ended,
                result=cause.result.value,
                reason=self._redactor.redact(cause.reason),
                sip_status=cause.sip_status,
                rtp=dict(rtp),
                conversation=summary,
                variables=self._redacted(dict(variables)),
            ),
            self._persona.config.retention,
        )
        self._to.store.end(self._record)
        if self.answered:
            self._to.metrics.conversation.observe(self._record.agent, self.measures)
        self._tell("call.ended", self._record.model_dump(mode="json", exclude={"id"}))
        self._to.events.forget(self._record.id)
        self._trace_call(cause, summary)

    # The rest is its own.

    def _open_files(self, answered_at: datetime) -> dict[str, str]:
        """Begin the recording and the transcript; returns the record's paths."""
        config, storage, record = self._persona.config, self._to.storage, self._record
        name = f"{answered_at:%Y%m%dT%H%M%SZ}-{record.id}"
        paths = {}
        sound = None
        if config.recording.enabled:
            sound = storage.recordings / f"{name}.{config.recording.format}"
            self._recording = self._to.recorder.open(sound, config.recording.format, config.recording.sample_rate)
            paths["recording"] = str(sound)
        if config.transcript.enabled:
            path = storage.transcripts / f"{name}.jsonl"
            self._transcript = Transcript(
                path,
                About(record.id, record.agent, record.language, answered_at),
                self._timeline,
                redactor=self._redactor,
                recording=sound,
                on_segment=self._told,
            )
            self._transcript.open()
            paths |= {
                "transcript": str(path),
                "vtt": str(path.with_suffix(".vtt")),
                "text": str(path.with_suffix(".txt")),
            }
            if sound is not None:
                paths["words"] = str(sound.with_suffix(".json"))
        return paths

    async def _close_files(self) -> None:
        self._timeline.close()
        if self._recording is not None:
            self._recording.close()
        if self._transcript is not None:
            self._transcript.close()
            await self._transcript.wait_closed()
        if self._recording is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FILE_WITHIN_S):
                    await self._recording.wait_closed()

    def _told(self, segment: Segment) -> None:
        names = ("speaker", "start", "end", "text", "interrupted", "scripted", "cut")
        self._tell("transcript.segment", {name: getattr(segment, name) for name in names})

    def _barged_in(self, at_s: float, yielded_after_s: float | None) -> None:
        if self._transcript is not None and yielded_after_s is not None:
            self._transcript.interrupted(at_s)
        self._tell("barge_in", {"at_s": round(at_s, 2), "yielded_after_s": yielded_after_s})

    def _tell(self, kind: Any, data: Mapping[str, Any]) -> None:
        self._to.events.emit(kind, self._record.id, data)

    def _redacted(self, value: Any) -> Any:
        """The value with every text in it blackened."""
        if isinstance(value, str):
            return self._redactor.redact(value)
        if isinstance(value, dict):
            return {key: self._redacted(each) for key, each in value.items()}
        return [self._redacted(each) for each in value] if isinstance(value, list) else value

    def _trace_call(self, cause: EndCause, summary: Mapping[str, float]) -> None:
        if self._to.tracer is None:
            return
        self.spans.ended_at = time.time()
        self.spans.result, self.spans.reason, self.spans.sip_status = cause.result.value, cause.reason, cause.sip_status
        self.spans.conversation = summary
        self.spans.attributes = {
            "denwa.codec": self._record.codec,
            "denwa.trunk": self._record.trunk,
            "denwa.generation": self._record.generation,
        }
        self._to.tracer.record(self.spans)


_STARTED: Final = ("direction", "caller", "called", "trunk", "agent", "generation")
_DESCRIBED: Final = ("direction", "caller", "called", "trunk", "language")
