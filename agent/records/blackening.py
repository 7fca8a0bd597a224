"""Holds segments back until nothing in them can be the beginning of what must not be written down. Pure."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from agent.records.segments import Spoken
from agent.records.words import Word
from config.redaction import Redactor

HOLD_S: Final = 5.0
"""How long a segment waits for the same speaker's next one."""
HOLD_NUMBER_S: Final = 30.0
"""How long, where one of those that wait has a digit in it: somebody may be reading out a number."""
MAX_HELD: Final = 40  # segments: the longest card number, told one digit at a time, twice

_NUMBER: Final = re.compile(r"\d|\b(?:zero|oh|one|two|three|four|five|six|seven|eight|nine)\b", re.IGNORECASE)


class Blackening:
    """One speaker's segments, blackened: words that overlap what the redactor finds become one ``[name]``.

    The redactor reads the speaker's last segments as one text, so a thing is found over pieces, words and segments.
    A segment leaves when the next one has closed; while all that follow it have digits in them, as when a number is
    read out in groups, it stays, up to 40 segments. Nothing waits longer than 5 s after the speaker's last word, 30 s
    where there are digits.

    So what is not found: a thing of which one part is told later than that; a thing without digits, or with digits in
    number words of another language than English, over more than two segments; and what the patterns do not know.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held: deque[Spoken] = deque()
        self._carried = 0
        """So many of the first words that are held belong to a thing that began in a segment that has left."""

    def add(self, spoken: Spoken) -> Iterator[Spoken]:
        """Take a closed segment; give out those that may be written now."""
        self._held.append(spoken)
        while len(self._held) > 1 and (len(self._held) > MAX_HELD or self._is_settled()):
            yield self._release()

    def advance(self, now_s: float, *, speaking: bool = False, final: bool = False) -> Iterator[Spoken]:
        """Give out what has waited long enough, unless a next segment has begun; at the end of the call, all."""
        if not self._held or speaking:
            return
        hold_s = HOLD_NUMBER_S if any(_has_number(each) for each in self._held) else HOLD_S
        if final or now_s - self._held[-1].end >= hold_s:
            while self._held:
                yield self._release()

    def _is_settled(self) -> bool:
        """Whether what the first segment holds cannot go on beyond those that are here."""
        first, *others = self._held
        return not _has_number(first) or not all(_has_number(each) for each in others)

    def _release(self) -> Spoken:
        """Let the first segment go, its words blackened."""
        things = self._things([word for spoken in self._held for word in spoken.words])
        spoken = self._held.popleft()
        kept: list[Word] = []
        for i, (word, thing) in enumerate(zip(spoken.words, things, strict=False)):
            if thing is None and i >= self._carried:
                kept.append(word)
            elif thing is not None and thing.begins and i >= self._carried:
                kept.append(replace(word, text=f"{_space(word)}[{thing.name}]"))
            elif kept:
                kept[-1].end = word.end
        rest = things[len(spoken.words) :]
        going_on = next((i for i, thing in enumerate(rest) if thing is None or thing.begins), len(rest))
        self._carried = max(going_on, self._carried - len(spoken.words))
        spoken.words = kept
        return spoken

    def _things(self, words: list[Word]) -> list["_Thing | None"]:
        """For each word the thing that it is part of."""
        spans = self._redactor.spans("".join(word.text for word in words))
        found: list[_Thing | None] = []
        end = 0
        before = -1
        for word in words:
            begin, end = end + len(_space(word)), end + len(word.text)
            hit = next((i for i, span in enumerate(spans) if span[0] < end and span[1] > begin), -1)
            found.append(_Thing(spans[hit][2], begins=hit != before) if hit >= 0 else None)
            before = hit
        return found


class _Thing(NamedTuple):
    """What a word is part of, and whether it is the first word of it."""

    name: str
    begins: bool


def _has_number(spoken: Spoken) -> bool:
    return any(_NUMBER.search(word.text) for word in spoken.words)


def _space(word: Word) -> str:
    return word.text[: len(word.text) - len(word.text.lstrip())]
