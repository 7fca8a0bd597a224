"""Records in other people's formats: JSON lines, CSV, and a folder that moshi-finetune trains from. Blocks.

The folder::

    records.jsonl or .csv      the records; their paths point into the folder
    data.jsonl                 one line per recording with words: {"path": "data_stereo/ID.flac", "duration": seconds}
    data_stereo/               ID.flac or .wav (left agent, right caller), and ID.json, the words with their times
    transcripts/               ID.jsonl, ID.vtt, ID.txt
"""

import csv
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import soundfile

from agent.store.call_record import FILES, CallRecord

_FOLDERS: Final = {"recording": "data_stereo", "words": "data_stereo"}


class ExportError(Exception):
    """The folder cannot be written; the message says why."""


@dataclass(slots=True)
class Exported:
    """What an export did."""

    records: int = 0
    files: int = 0
    trainable: int = 0
    missing: list[str] = field(default_factory=list)

    def report(self, folder: Path) -> str:
        """The same in words."""
        lines = [f"{folder}: {self.records} records, {self.files} files, {self.trainable} recordings with words"]
        return "\n".join([*lines, *(f"missing: {path}" for path in self.missing)])


def as_json_line(record: CallRecord) -> str:
    """The record as one line of JSON."""
    return record.model_dump_json()


def as_csv(records: Iterable[CallRecord]) -> str:
    """A table with a heading; what is more than a value stands in it as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(CallRecord.model_fields), lineterminator="\n")
    writer.writeheader()
    for record in records:
        values = record.model_dump(mode="json")
        writer.writerow(
            {k: json.dumps(v, ensure_ascii=False) if isinstance(v, dict | list) else v for k, v in values.items()}
        )
    return text.getvalue().rstrip("\n")


def export_files(records: Iterable[CallRecord], folder: Path, form: str) -> Exported:
    """Copy records and their files into a new folder. Raises ``ExportError``."""
    done = Exported()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(f"{folder} is there already, and not empty: name a new folder")
        for name in ("data_stereo", "transcripts"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        copied = []
        with (folder / "data.jsonl").open("w", encoding="utf-8") as data:
            for record in records:
                there = _copy(record, folder, done)
                done.records += 1
                copied.append(record.model_copy(update={name: there.get(name) for name in FILES}))
                if "recording" in there and "words" in there:
                    seconds = soundfile.info(str(folder / there["recording"])).duration
                    data.write(json.dumps({"path": there["recording"], "duration": round(seconds, 3)}) + "\n")
                    done.trainable += 1
        text = as_csv(copied) if form == "csv" else "\n".join(map(as_json_line, copied))
        (folder / f"records.{form}").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{folder}: {error.strerror}") from None
    except soundfile.SoundFileError as error:
        raise ExportError(f"{folder}: a recording cannot be read ({error})") from None
    return done


def _copy(record: CallRecord, folder: Path, done: Exported) -> dict[str, str]:
    """Copy its files; returns their paths within the folder."""
    there = {}
    for name, path in record.files.items():
        to = f"{_FOLDERS.get(name, 'transcripts')}/{record.id}{Path(path).suffix}"
        try:
            shutil.copyfile(path, folder / to)
        except FileNotFoundError:
            done.missing.append(path)
            continue
        there[name] = to
        done.files += 1
    return there
