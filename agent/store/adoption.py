"""What becomes of the calls of a gateway that died: records that say so. Runs in a thread."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from agent.store.call_record import FILES, CallRecord
from agent.store.spool import Begun, Spool

log = structlog.get_logger(__name__)

FinishTranscript = Callable[[Path, Path | None], object]
"""Makes the final forms of a transcript whose writer died: of its ``.jsonl``, and of the recording, where there is one.

Raises ``OSError`` or ``ValueError``. (agent.records.forms.finish)
"""

REASON = "gateway lost"


def adopt(spool: Spool, finish: FinishTranscript | None) -> int:
    """Turn lost calls into ended ones, in the order in which they began; return how many. The lock must be held.

    Calls of gateways that live are left alone. Raises ``OSError``.
    """
    lost = [each for each in spool.begun() if not spool.is_alive(each.gateway)]
    for each in sorted(lost, key=lambda begun: begun.record.started_at):
        if (spool.folder / f"{each.record.id}.ended.json").exists():
            spool.remove_begun(each.record.id)  # its gateway died just after it had ended
            continue
        record = _lost_record(each, finish)
        spool.write_ended(record.id, spool.entry(record), time.time_ns())
        log.warning("store.call_lost", call=record.id, agent=record.agent)
    spool.sweep()
    return len(lost)


def _lost_record(begun: Begun, finish: FinishTranscript | None) -> CallRecord:
    record = begun.record
    last = max(_last_written(path) for path in (str(begun.path), *record.files.values()))
    ended_at = max(datetime.fromtimestamp(last, UTC), record.answered_at or record.started_at)
    if finish is not None and record.transcript is not None and os.path.exists(record.transcript):
        try:
            recording = record.recording if record.recording and os.path.exists(record.recording) else None
            finish(Path(record.transcript), None if recording is None else Path(recording))
        except (OSError, ValueError) as error:
            log.error("store.transcript_unfinished", call=record.id, error=type(error).__name__)
    return record.changed(
        ended_at=ended_at,
        result="failed",
        reason=REASON,
        **_files(record),
    )


def _files(record: CallRecord) -> dict[str, str | None]:
    """Those of its files that are there, and their companions: a gateway that dies has not named them all."""
    likely = dict[str, str | None](record.files)
    if record.transcript is not None:
        likely.setdefault("vtt", str(Path(record.transcript).with_suffix(".vtt")))
        likely.setdefault("text", str(Path(record.transcript).with_suffix(".txt")))
    if record.recording is not None:
        likely.setdefault("words", str(Path(record.recording).with_suffix(".json")))
    return {name: path if (path := likely.get(name)) and os.path.exists(path) else None for name in FILES}


def _last_written(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
