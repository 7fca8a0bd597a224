"""One speaker's words in segments: about a sentence each, as captions and receivers of events want them. Pure."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from agent.records.words import Word, Words

Speaker = Literal["agent", "caller"]

PAUSE_S: Final = 1.0
"""Silence that ends a segment."""
SENTENCE_PAUSE_S: Final = 0.3
"""Silence that ends it after the end of a sentence."""
MAX_WORDS: Final = 30
_SENTENCE_ENDS: Final = (".", "!", "?", "…", "。", "\uff01", "\uff1f", "؟", "।")
_QUOTES: Final = "\"')]»”\u2019"
_REMEMBERED: Final = 8  # closed segments


@dataclass(frozen=True, slots=True)
class Segment:
    """What one speaker said in one go, in seconds on the call's clock.

    ``interrupted``: the agent was, and gave way; ``scripted``: it was told to say it; ``cut``: nobody heard it, for
    its audio was never sent (the end of the call, hold).
    """

    number: int
    speaker: Speaker
    start: float
    end: float
    text: str
    interrupted: bool = False
    scripted: bool = False
    cut: bool = False


@dataclass(slots=True)
class Spoken:
    """A segment with its words; ``add`` may still be to come, and ``interrupted`` too."""

    number: int
    speaker: Speaker
    words: list[Word]
    interrupted: bool = False
    start: float = 0.0
    end: float = 0.0
    scripted: bool = field(init=False)
    cut: bool = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.words[0].start or 0.0
        self.end = self.words[-1].end
        self.scripted = self.words[0].scripted
        self.cut = self.words[0].cut

    def add(self, word: Word) -> None:
        """Append a word."""
        self.words.append(word)
        self.end = word.end

    @property
    def ends_sentence(self) -> bool:
        """Whether the last word ends a sentence."""
        return self.words[-1].text.rstrip(_QUOTES).endswith(_SENTENCE_ENDS)

    def segment(self) -> Segment:
        """What others are told of it."""
        text = "".join(word.text for word in self.words).strip()
        flags = (self.interrupted, self.scripted, self.cut)
        return Segment(self.number, self.speaker, self.start, self.end, text, *flags)


class Numbers:
    """Counts the segments of a call, of both speakers, from 0."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> int:
        """The next one."""
        self._next += 1
        return self._next - 1


@dataclass(slots=True)
class WordOf:
    """A complete word and the segment it belongs to."""

    word: Word
    spoken: Spoken


class Segments:
    """Groups one speaker's words.

    A segment ends at a pause, at the end of a sentence with a short pause, after 30 words, at an interruption, and
    where scripted words or words that nobody heard begin or end.
    """

    def __init__(self, speaker: Speaker, words: Words, numbers: Numbers) -> None:
        self._speaker = speaker
        self._words = words
        self._numbers = numbers
        self._open: Spoken | None = None
        self._recent: deque[Spoken] = deque(maxlen=_REMEMBERED)
        self._interruption: tuple[float, float] | None = None
        """Of the open segment: when it began, and when it was told."""

    @property
    def speaking(self) -> bool:
        """Whether a segment is open, or its first word has come."""
        return self._open is not None or bool(self._words)

    def advance(self, now_s: float, *, final: bool = False) -> Iterator[WordOf | Spoken]:
        """Give out each word that is complete at ``now_s``, and each segment that is closed."""
        for word in self._words.complete(now_s, final=final):
            if self._open is not None and not self._continues(self._open, word):
                yield self._close(self._open)
            if self._open is None:
                self._open = Spoken(self._numbers.take(), self._speaker, [word])
            else:
                self._open.add(word)
            yield WordOf(word, self._open)
            if len(self._open.words) >= MAX_WORDS:
                yield self._close(self._open)
        if self._open is not None and (final or self._is_over(self._open, now_s)):
            yield self._close(self._open)

    def interrupted(self, at_s: float, now_s: float) -> Spoken | None:
        """The speaker was interrupted at ``at_s`` and has given way by ``now_s``.

        Returns the segment that this befell where it is closed already; an open one is closed by ``advance``, after
        the words that have begun.
        """
        for spoken in self._recent:
            if spoken.start <= at_s < spoken.end and not spoken.cut:
                spoken.interrupted = True
                return spoken
        self._interruption = (at_s, now_s)
        return None

    def _continues(self, spoken: Spoken, word: Word) -> bool:
        """Whether a word belongs to the open segment."""
        if (word.scripted, word.cut) != (spoken.scripted, spoken.cut):
            return False
        assert word.start is not None
        if self._interruption is not None and self._befalls(spoken) and word.start > self._interruption[1]:
            return False
        return not _is_pause(spoken, word.start - spoken.end)

    def _is_over(self, spoken: Spoken, now_s: float) -> bool:
        """Whether no further word can belong to the open segment."""
        now_s -= self._words.lag_s
        until = now_s if self._words.next_start is None else min(now_s, self._words.next_start)
        if self._interruption is not None:
            begun = self._words.next_start is not None and self._words.next_start <= self._interruption[1]
            if not begun and self._befalls(spoken):
                return True
        return _is_pause(spoken, until - spoken.end)

    def _befalls(self, spoken: Spoken) -> bool:
        return self._interruption is not None and spoken.start <= self._interruption[0] < spoken.end

    def _close(self, spoken: Spoken) -> Spoken:
        if self._interruption is not None:
            spoken.interrupted = self._befalls(spoken) and not spoken.cut
            if spoken.interrupted or spoken.end > self._interruption[0]:
                self._interruption = None
        self._open = None
        self._recent.append(spoken)
        return spoken


def _is_pause(spoken: Spoken, silence_s: float) -> bool:
    return silence_s >= (SENTENCE_PAUSE_S if spoken.ends_sentence else PAUSE_S)
