"""The forms of a finished transcript, made of its JSON lines: WebVTT, plain text, and the words beside a recording.

``finish`` makes them at the end of a call, and at the next start for a call that was cut off by a crash.
"""

import json
import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

MAIN_SPEAKER: Final = "SPEAKER_MAIN"
"""The speaker of the left channel, in moshi-finetune's words."""


@dataclass(slots=True)
class _Told:
    """A segment as the JSON lines tell it: words are text, start, end."""

    speaker: str
    words: list[tuple[str, float, float]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(text for text, _, _ in self.words).strip()


def finish(path: Path, recording: Path | None = None) -> None:
    """Make ``.vtt`` and ``.txt`` beside the JSON lines at ``path``, and ``.json`` beside the recording.

    Whatever a crash has left is taken as it is: lines that are not whole are passed over. May be called again. Each
    file appears whole or not at all. Raises ``OSError``.
    """
    about, told = _read(path)
    told.sort(key=lambda each: each.words[0][1])
    _replace(path.with_suffix(".vtt"), _webvtt(about, told))
    _replace(path.with_suffix(".txt"), _plain(about, told))
    if recording is not None:
        alignments = [word for each in told for word in _alignments(each)]
        words = json.dumps({"alignments": alignments}, ensure_ascii=False)
        _replace(recording.with_suffix(".json"), words)


def _read(path: Path) -> tuple[dict[str, str], list[_Told]]:
    """What the transcript is about, and its segments that have words."""
    about: dict[str, str] = {}
    told: dict[int, _Told] = {}
    for line in path.read_text(errors="replace").split("\n"):
        try:
            value = json.loads(line)
            if "call" in value:
                about = {str(key): str(each) for key, each in value.items()}
            elif isinstance(value["segment"], int):
                _take(told, value)
        except (ValueError, KeyError, TypeError):
            continue
    return about, [each for each in told.values() if each.words]


def _take(told: dict[int, _Told], line: dict[str, Any]) -> None:
    """Take the line of a word, or of the end of a segment."""
    start, end = float(line["t"]), float(line["end"])
    each = told.setdefault(line["segment"], _Told(str(line["speaker"])))
    if "text" in line:
        each.words.append((str(line["text"]), start, end))
        if line.get("cut") and "cut" not in each.marks:
            each.marks.append("cut")
    else:
        each.marks = [mark for mark in ("interrupted", "scripted", "cut") if line.get(mark)]


def _webvtt(about: dict[str, str], told: list[_Told]) -> str:
    """Captions (W3C WebVTT), one cue per segment that was heard; its marks are the voice's classes."""
    note = "\n".join(f"{key}: {value}" for key, value in about.items()).replace("-->", "->")
    blocks = ["WEBVTT", f"NOTE\n{note}" if note else "NOTE"]
    for each in told:
        if "cut" in each.marks:
            continue
        start = each.words[0][1]
        end = max(start + 0.01, each.words[-1][2])
        voice = ".".join(["v", *each.marks])
        cue = f"<{voice} {each.speaker.capitalize()}>{escape(each.text, quote=False)}</v>"
        blocks.append(f"{_clock(start)} --> {_clock(end)}\n{cue}")
    return "\n\n".join(blocks) + "\n"


def _plain(about: dict[str, str], told: list[_Told]) -> str:
    """One line per segment: time, speaker, text, and what befell it."""
    meaning = {"interrupted": "interrupted", "scripted": "scripted", "cut": "not heard"}
    lines = [", ".join(f"{key} {value}" for key, value in about.items()), ""]
    for each in told:
        marks = ", ".join(meaning[mark] for mark in each.marks)
        lines.append(f"[{_clock(each.words[0][1])}] {each.speaker}: {each.text}" + (f" ({marks})" if marks else ""))
    return "\n".join(lines) + "\n"


def _alignments(told: _Told) -> list[tuple[str, tuple[float, float], str]]:
    """The agent's words that were heard, as moshi-finetune reads them: it knows the left channel's speaker."""
    if told.speaker != "agent" or "cut" in told.marks:
        return []
    whole: list[tuple[str, float, float]] = []
    for text, start, end in told.words:
        if whole and not text[:1].isspace():  # what came late of the word before
            before = whole.pop()
            text, start = before[0] + text, before[1]
        whole.append((text, start, end))
    return [(text.strip(), (start, end), MAIN_SPEAKER) for text, start, end in whole]


def _clock(seconds: float) -> str:
    minutes, ms = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}.{ms % 1000:03}"


def _replace(path: Path, text: str) -> None:
    """Write a file so that it appears whole, mode 0640."""
    part = path.with_name(path.name + ".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)
    part.replace(path)
