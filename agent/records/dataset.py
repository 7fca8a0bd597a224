"""The index of recordings that training reads. Used by the command line."""

import json
from pathlib import Path
from typing import Final

import soundfile
import structlog

log = structlog.get_logger(__name__)

INDEX: Final = "data.jsonl"


def index_recordings(folder: Path) -> int:
    """Write ``data.jsonl`` into a folder of recordings: each one that has its words beside it, with its duration.

    One line per recording, in the order of their names: ``{"path": relative to the folder, "duration": seconds}``, as
    moshi-finetune reads them. What cannot be read is left out, with a line in the log. Returns how many there are.
    Raises ``OSError``.
    """
    lines: list[str] = []
    for path in sorted(each for each in folder.rglob("*") if each.suffix in (".flac", ".wav")):
        if not path.with_suffix(".json").is_file():
            continue
        try:
            duration = soundfile.info(str(path)).duration
        except soundfile.SoundFileError as error:
            log.warning("recording.unreadable", path=str(path), error=str(error))
            continue
        lines.append(json.dumps({"path": str(path.relative_to(folder)), "duration": round(duration, 3)}) + "\n")
    (folder / INDEX).write_text("".join(lines))
    return len(lines)
