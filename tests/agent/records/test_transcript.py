"""agent/records/transcript.py, and what is made of it."""

import itertools
import json
import re
import signal
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.records.forms import finish
from agent.records.segments import MAX_WORDS, Segment
from agent.records.transcript import Transcript
from tests.agent.records.spoken_call import ABOUT, SpokenCall, sent_at, tokens

FULL = [path for path in [Path("/dev/full")] if path.exists()]
"""A disk that is full, on Linux."""


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def _words(path: Path) -> list[dict[str, Any]]:
    return [line for line in _lines(path) if "text" in line]


def _ends(path: Path) -> list[dict[str, Any]]:
    return [line for line in _lines(path) if "text" not in line]


async def test_words_are_on_disk_while_the_call_runs(tmp_path: Path) -> None:
    """A word is written when it is complete, with the time its audio was sent; pieces and punctuation stick to it."""
    call = SpokenCall()
    path = tmp_path / "new" / "call.jsonl"
    async with Transcript(path, ABOUT, call.timeline) as transcript:
        call.say(transcript, ["", " Hello", " wor", "ld", ".", "", " Good", "bye"])
        assert json.loads(path.read_text().splitlines()[0]) == {
            "call": "call-1",
            "agent": "front-desk",
            "language": "en",
            "time": "2026-05-04T12:30:00.000+00:00",
        }
        hello, world = _words(path)
        assert hello == {"t": sent_at(1), "end": sent_at(2), "speaker": "agent", "text": " Hello", "segment": 0}
        assert (world["text"], world["t"]) == (" world.", sent_at(2))
        assert world["end"] <= sent_at(6)
        call.wait(transcript, 20)
        assert "".join(word["text"] for word in _words(path)) == " Hello world. Goodbye"
    assert path.stat().st_mode & 0o007 == 0


async def test_a_word_ends_before_the_next_and_never_after_what_was_sent(tmp_path: Path) -> None:
    """Words lie in order without overlap; a last word that the hang-up cuts short ends with the sound."""
    call = SpokenCall()
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline) as transcript:
        call.say(transcript, [" one", " two", " three", "", "", " extraordinarily"])
        call.wait(transcript, 1)
    words = _words(tmp_path / "call.jsonl")
    assert [word["text"] for word in words] == [" one", " two", " three", " extraordinarily"]
    for word, follower in itertools.pairwise(words):
        assert word["t"] < word["end"] <= follower["t"]
    assert words[-1]["end"] == pytest.approx(call.timeline.sent_until)
    assert words[-1]["end"] == pytest.approx(7 * 0.08)


async def test_segments_end_where_people_would_end_them(tmp_path: Path) -> None:
    """At a sentence's end with a short pause, at a pause of a second, after 30 words, and where a script begins."""
    call = SpokenCall()
    told: list[Segment] = []
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline, on_segment=told.append) as transcript:
        call.say(transcript, [" Hello", "."], pause=12)
        assert [segment.text for segment in told] == ["Hello."]
        call.say(transcript, [" Mr", ".", " Smith"], pause=8)
        assert len(told) == 1  # no pause behind the full stop; less than a second behind the word
        call.say(transcript, [" is", " here"], pause=25)
        assert [segment.text for segment in told[1:]] == ["Mr. Smith is here"]
        call.say(transcript, [" a"] * (MAX_WORDS + 3))
        call.say(transcript, [" This", " is", " said."], scripted=True)
        call.say(transcript, [" And", " this", " not"])
    assert [segment.text for segment in told[2:]] == [
        " ".join("a" * MAX_WORDS),
        "a a a",
        "This is said.",
        "And this not",
    ]
    assert [segment.scripted for segment in told] == [False] * 4 + [True, False]
    assert [segment.number for segment in told] == list(range(6))
    ends = _ends(tmp_path / "call.jsonl")
    assert [end.get("scripted") for end in ends] == [None] * 4 + [True, None]
    assert [(end["t"], end["end"]) for end in ends] == [(round(s.start, 3), round(s.end, 3)) for s in told]
    assert not any("interrupted" in end or "cut" in end for end in ends)


async def test_an_interruption_closes_the_segment_and_marks_it(tmp_path: Path) -> None:
    """What had begun when the agent gave way belongs to the interrupted segment, what it says next to another."""
    call = SpokenCall()
    told: list[Segment] = []
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline, on_segment=told.append) as transcript:
        call.say(transcript, [" Let", " me", " tell", " you"], pause=3)
        transcript.interrupted(at_s=sent_at(2))
        call.say(transcript, [" Yes", " please"], pause=15)
    assert [(segment.text, segment.interrupted) for segment in told] == [
        ("Let me tell you", True),
        ("Yes please", False),
    ]
    assert [end.get("interrupted") for end in _ends(tmp_path / "call.jsonl")] == [True, None]
    assert "you (interrupted)" in (tmp_path / "call.txt").read_text()
    assert "<v.interrupted Agent>Let me tell you</v>" in (tmp_path / "call.vtt").read_text()


async def test_an_interruption_that_shows_late_is_told_again(tmp_path: Path) -> None:
    """A segment that was closed before it was known gets a second last line; one in a pause marks nothing."""
    call = SpokenCall()
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline) as transcript:
        call.say(transcript, [" It", " costs", " ten", "."], pause=15)
        transcript.interrupted(at_s=sent_at(2))
        transcript.interrupted(at_s=sent_at(12))
        call.say(transcript, [" Euros"], pause=30)
    assert [(end["segment"], end.get("interrupted")) for end in _ends(tmp_path / "call.jsonl")] == [
        (0, None),
        (0, True),
        (1, None),
    ]
    assert "ten. (interrupted)" in (tmp_path / "call.txt").read_text()


async def test_words_that_were_never_sent_are_marked(tmp_path: Path) -> None:
    """Hold and hang-up cut words off: they are segments of their own, and in no caption."""
    call = SpokenCall()
    told: list[Segment] = []
    recording = tmp_path / "call.flac"
    async with Transcript(
        tmp_path / "call.jsonl", ABOUT, call.timeline, recording=recording, on_segment=told.append
    ) as transcript:
        call.say(transcript, [" heard", " well"], pause=2)
        call.held = True
        call.say(transcript, [" into", " the", " void"], pause=3)
        call.held = False
        call.say(transcript, ["", "", " back", " again"])
        call.held = True
        call.say(transcript, [" but", " gone"])
        transcript.add(-1, " unplayed", False)
    assert [(segment.text, segment.cut) for segment in told] == [
        ("heard well", False),
        ("into the void", True),
        ("back again", False),
        ("but gone unplayed", True),
    ]
    cut = [word["text"] for word in _words(tmp_path / "call.jsonl") if word.get("cut")]
    assert cut == [" into", " the", " void", " but", " gone", " unplayed"]
    assert "".join(word["text"] for word in _words(tmp_path / "call.jsonl")) == (
        " heard well into the void back again but gone unplayed"
    )
    vtt = (tmp_path / "call.vtt").read_text()
    assert "void" not in vtt
    assert "back again" in vtt
    assert "into the void (not heard)" in (tmp_path / "call.txt").read_text()
    aligned = json.loads((tmp_path / "call.json").read_text())["alignments"]
    assert [word for word, *_ in aligned] == ["heard", "well", "back", "again"]
    starts = [word["t"] for word in _words(tmp_path / "call.jsonl")]
    assert starts == sorted(starts)


async def test_the_callers_words_stand_beside_the_agents(tmp_path: Path) -> None:
    """A listener's pieces come up to seconds late; their segments have numbers of the same count."""
    call = SpokenCall()
    told: list[Segment] = []
    recording = tmp_path / "rec" / "call.wav"
    recording.parent.mkdir()
    async with Transcript(
        tmp_path / "call.jsonl", ABOUT, call.timeline, recording=recording, on_segment=told.append
    ) as transcript:
        call.say(transcript, [" Hello", "?"], pause=30)
        transcript.add_caller(0.9, " Yes")
        transcript.add_caller(1.1, " hi")
        call.wait(transcript, 5)
        transcript.add_caller(1.4, " th")
        transcript.add_caller(1.5, "ere.")
        call.wait(transcript, 80)
        assert [segment.text for segment in told] == ["Hello?", "Yes hi there."]
        call.say(transcript, [" Good", "."], pause=3)
    assert [(segment.number, segment.speaker) for segment in told] == [(0, "agent"), (1, "caller"), (2, "agent")]
    assert (told[1].start, told[1].end) == (0.9, pytest.approx(2.08, abs=0.01))
    text = (tmp_path / "call.txt").read_text().splitlines()
    assert text[2:] == [
        "[00:00:00.060] agent: Hello?",
        "[00:00:00.900] caller: Yes hi there.",
        "[00:00:09.420] agent: Good.",
    ]
    aligned = json.loads((tmp_path / "rec" / "call.json").read_text())
    assert list(aligned) == ["alignments"]
    assert [(word, speaker) for word, _, speaker in aligned["alignments"]] == [
        ("Hello?", "SPEAKER_MAIN"),
        ("Good.", "SPEAKER_MAIN"),
    ]
    assert aligned["alignments"][0][1][0] == 0.06


_CUE = re.compile(r"(?:(\d+):)?(\d\d):(\d\d\.\d{3}) --> (?:(\d+):)?(\d\d):(\d\d\.\d{3})")


def _parse_webvtt(text: str) -> list[tuple[float, float, str, str]]:
    """A minimal WebVTT parser after W3C WebVTT section 6: cues as start, end, voice and text."""
    blocks = re.split(r"\n\n+", text)
    assert blocks[0].startswith("WEBVTT")
    cues = []
    for block in blocks[1:]:
        lines = block.strip("\n").split("\n")
        if lines[0].startswith("NOTE"):
            assert not any("-->" in line for line in lines)
            continue
        times = _CUE.fullmatch(lines[0])
        assert times is not None
        start, end = (int(times[i] or 0) * 3600 + int(times[i + 1]) * 60 + float(times[i + 2]) for i in (1, 4))
        payload = "\n".join(lines[1:])
        voice = re.fullmatch(r"<v(?:\.[a-z]+)* ([^>]+)>([^<]*)</v>", payload, re.DOTALL)
        assert voice is not None
        assert start < end
        assert not cues or cues[-1][0] <= start
        cues.append((start, end, voice[1], unescape(voice[2])))
    return cues


SPEECH = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(words=st.lists(SPEECH, min_size=1, max_size=20), pauses=st.lists(st.integers(0, 16), min_size=20, max_size=20))
@settings(deadline=None, max_examples=60)
async def test_any_text_comes_back(
    words: list[str], pauses: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the model says, markup and control characters too, the JSON lines and the captions say it."""
    folder = tmp_path_factory.mktemp("call")
    call = SpokenCall()
    async with Transcript(folder / "call.jsonl", ABOUT, call.timeline) as transcript:
        for word, pause in zip(words, pauses, strict=False):
            call.say(transcript, [" " + word], pause)
        call.wait(transcript, 25)
    controls = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029], " ")
    want = " ".join(" ".join(words).translate(controls).split())
    assert " ".join("".join(word["text"] for word in _words(folder / "call.jsonl")).split()) == want
    cues = _parse_webvtt((folder / "call.vtt").read_text(encoding="utf-8"))
    assert " ".join(" ".join(text for *_, text in cues).split()) == want
    assert all(voice == "Agent" for _, _, voice, _ in cues)


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from agent.records.transcript import Transcript
from tests.agent.records.spoken_call import ABOUT, SpokenCall
async def main():
    call = SpokenCall()
    async with Transcript(Path(sys.argv[1]), ABOUT, call.timeline) as transcript:
        call.say(transcript, [f" word{i}" for i in range(50)])
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_a_killed_process_loses_no_complete_word(tmp_path: Path) -> None:
    """After SIGKILL the file has every word but the last few, and ``finish`` makes of it what ``close`` would have."""
    path = tmp_path / "call.jsonl"
    done = subprocess.run([sys.executable, "-c", _KILLED, path], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    words = [word["text"] for word in _words(path)]
    assert words == [f" word{i}" for i in range(len(words))]
    assert len(words) >= 48
    with path.open("a") as file:
        file.write('{"t": 9.0, "end": 9.')  # a line that was torn
    for _ in range(2):
        finish(path, tmp_path / "call.flac")
    assert [text for *_, text in _parse_webvtt((tmp_path / "call.vtt").read_text())] == [
        " ".join(f"word{i}" for i in range(30)),
        " ".join(f"word{i}" for i in range(30, len(words))),
    ]
    assert "call call-1, agent front-desk" in (tmp_path / "call.txt").read_text()
    aligned = json.loads((tmp_path / "call.json").read_text())["alignments"]
    assert [word for word, *_ in aligned] == [word.strip() for word in words]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["call.json", "call.jsonl", "call.txt", "call.vtt"]


async def test_a_broken_disk_costs_the_transcript_not_the_call(tmp_path: Path) -> None:
    """Neither an impossible path nor a full disk raises; it is said once, and receivers of segments miss nothing."""
    (tmp_path / "file").write_text("")
    paths = [tmp_path / "file" / "call.jsonl", *FULL]
    for path in paths:
        told: list[Segment] = []
        call = SpokenCall()
        with capture_logs() as logs:
            async with Transcript(path, ABOUT, call.timeline, on_segment=told.append) as transcript:
                call.say(transcript, [" still", " there"], pause=20)
                transcript.close()
                transcript.advance(9.0)
        assert [segment.text for segment in told] == ["still there"]
        assert [line["event"] for line in logs] == ["transcript.failed"]
        assert "still" not in str(logs)


async def test_the_forms_fail_alone(tmp_path: Path) -> None:
    """Where the words beside a recording cannot be written, the transcript is there all the same."""
    call = SpokenCall()
    gone = tmp_path / "gone" / "call.flac"
    with capture_logs() as logs:
        async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline, recording=gone) as transcript:
            call.say(transcript, tokens("Nothing is lost here."), pause=20)
    assert [line["event"] for line in logs] == ["transcript.failed"]
    assert "Nothing is lost here." in (tmp_path / "call.txt").read_text()
