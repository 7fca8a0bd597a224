"""agent/records/blackening.py, through whole transcripts."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.records.segments import Segment
from agent.records.transcript import Transcript
from config.redaction import Redactor
from tests.agent.records.spoken_call import ABOUT, SpokenCall, tokens

CARD = Redactor(["card_number"])
SPOKEN = [
    "four",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
    "one",
]


def _all_text(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.iterdir()))


def _texts(path: Path) -> str:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return "".join(line.get("text", "") for line in lines)


async def test_a_number_is_one_word_that_says_what_it_was(tmp_path: Path) -> None:
    """A number over many words becomes one ``[card_number]`` that lasts as long, in every file and in what is told."""
    call = SpokenCall()
    told: list[Segment] = []
    async with Transcript(
        tmp_path / "call.jsonl",
        ABOUT,
        call.timeline,
        redactor=CARD,
        recording=tmp_path / "call.flac",
        on_segment=told.append,
    ) as transcript:
        call.say(transcript, tokens("My card is 4111 1111 1111 1111, thank you."), pause=20)
        assert "thank" not in (tmp_path / "call.jsonl").read_text()
        call.wait(transcript, 400)
        assert "thank" in (tmp_path / "call.jsonl").read_text()
    assert [segment.text for segment in told] == ["My card is [card_number] thank you."]
    assert _texts(tmp_path / "call.jsonl") == " My card is [card_number] thank you."
    for suffix in (".txt", ".vtt"):
        assert "My card is [card_number] thank you." in (tmp_path / "call").with_suffix(suffix).read_text()
    aligned = json.loads((tmp_path / "call.json").read_text())["alignments"]
    (first, last), (following, _) = (word[1] for word in aligned[3:5])
    assert aligned[3][0] == "[card_number]"
    assert last - first > 0.5
    assert last <= following
    assert "1111" not in _all_text(tmp_path)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("pause", [0, 6, 20, 100])
@pytest.mark.parametrize("speaker", ["agent", "caller"])
async def test_a_number_told_in_groups_is_found(group: int, pause: int, speaker: str, tmp_path: Path) -> None:
    """Over pieces, words and segments, with full stops and up to 8 s between its groups, by either speaker."""
    call = SpokenCall()
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline, redactor=CARD) as transcript:

        def say(text: str) -> None:
            if speaker == "agent":
                call.say(transcript, tokens(text), pause)
                return
            for piece in tokens(text):
                transcript.add_caller(max(0.0, call.timeline.now_s - 1.0), piece)
                call.wait(transcript, 1)
            call.wait(transcript, pause)

        say("It is")
        for i in range(0, 16, group):
            say(" ".join(SPOKEN[i : i + group]) + ".")
        say("That was it.")
        call.wait(transcript, 500)
    assert _texts(tmp_path / "call.jsonl") == " It is [card_number] That was it."
    written = _all_text(tmp_path)
    assert not re.search(r"\b(four|one)\b", written)
    assert "That was it." in written


DIGITS = "0123456789"


@given(
    number=st.text(DIGITS, min_size=12, max_size=19),
    cuts=st.lists(st.integers(1, 5), min_size=19, max_size=19),
    pauses=st.lists(st.sampled_from([0, 1, 5, 15, 40]), min_size=19, max_size=19),
    before=st.lists(st.sampled_from(["hello", "Yes.", "my", "number", "is"]), max_size=35),
    after=st.lists(st.sampled_from(["thanks", "Bye.", "so", "one", "moment"]), max_size=35),
)
@settings(deadline=None, max_examples=80)
async def test_a_planted_number_never_reaches_the_disk(
    number: str,
    cuts: list[int],
    pauses: list[int],
    before: list[str],
    after: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """However a number is cut into words and segments, no two of its digits are written; the words around it are."""
    folder = tmp_path_factory.mktemp("call")
    call = SpokenCall()
    async with Transcript(folder / "call.jsonl", ABOUT, call.timeline, redactor=CARD) as transcript:
        call.say(transcript, tokens(" ".join(before)), 13)
        rest = number
        for cut, pause in zip(cuts, pauses, strict=False):
            group, rest = rest[:cut], rest[cut:]
            if group:
                call.say(transcript, tokens(group), pause)
        call.say(transcript, tokens(" ".join([".", *after])), 3)
        if len(after) % 2:
            call.wait(transcript, 400)
    texts = _texts(folder / "call.jsonl")
    assert not re.search(r"\d", texts)
    said = [*before, "[card_number]", *after]
    want = "".join(said).replace(".", "").replace("one", "")
    assert texts.replace(" ", "").replace(".", "").replace("one", "") == want
    assert "[card_number]" in (folder / "call.txt").read_text()


async def test_an_address_over_two_segments_is_found(tmp_path: Path) -> None:
    """A thing without digits is found over the end of a segment, and only what it covers is lost."""
    call = SpokenCall()
    redactor = Redactor(["email"], {"project": "blue (whale|fish)"})
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline, redactor=redactor) as transcript:
        call.say(transcript, tokens("Write to jane at"), pause=20)
        call.say(transcript, tokens("example dot com about the Blue"), pause=20)
        call.say(transcript, tokens("whale, please."), pause=20)
    assert _texts(tmp_path / "call.jsonl") == " Write to [email] about the [project] please."
    assert "jane" not in _all_text(tmp_path)


async def test_a_segment_waits_for_the_one_that_is_being_said(tmp_path: Path) -> None:
    """However long the next segment takes, the one before it is held until that has closed."""
    call = SpokenCall()
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline, redactor=Redactor(["email"])) as transcript:
        call.say(transcript, tokens("Write to jane at"), pause=20)
        call.say(transcript, tokens("example dot com" + " whenever" * 27))
        assert "Write" not in (tmp_path / "call.jsonl").read_text()
        call.wait(transcript, 100)
        assert _texts(tmp_path / "call.jsonl") == " Write to [email]" + " whenever" * 27


async def test_segments_come_without_long_delay(tmp_path: Path) -> None:
    """A segment leaves when the speaker's next one has closed, or after 5 s; an interruption known by then is on it."""
    call = SpokenCall()
    told: list[Segment] = []
    path = tmp_path / "c.jsonl"
    async with Transcript(path, ABOUT, call.timeline, redactor=CARD, on_segment=told.append) as transcript:
        call.say(transcript, [" First", "."], pause=15)
        transcript.interrupted(0.1)
        assert told == []
        call.say(transcript, [" Second", "."], pause=15)
        assert [segment.text for segment in told] == ["First."]
        assert told[0].interrupted
        call.wait(transcript, 70)
        assert [segment.text for segment in told] == ["First.", "Second."]
        transcript.interrupted(told[1].start)
    assert '"segment": 1, "interrupted": true' in path.read_text()


async def test_an_empty_redactor_holds_nothing_back(tmp_path: Path) -> None:
    """Without patterns words are written as they complete."""
    call = SpokenCall()
    async with Transcript(tmp_path / "call.jsonl", ABOUT, call.timeline, redactor=Redactor()) as transcript:
        call.say(transcript, [" 4111", " 1111", " 1111", " 1111"])
        assert " 4111" in (tmp_path / "call.jsonl").read_text()
