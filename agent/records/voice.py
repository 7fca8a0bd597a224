"""One speaker of a call: pieces of text in; words and segments, fit to be written down, out. Pure."""

from collections import deque
from collections.abc import Iterator

from agent.records.blackening import Blackening
from agent.records.segments import Numbers, Segments, Speaker, Spoken, WordOf
from agent.records.words import Clock, Words
from config.redaction import Redactor


class Voice:
    """One speaker's words and segments; with a redactor that has patterns they come when they are sure, blackened."""

    def __init__(
        self, speaker: Speaker, clock: Clock, numbers: Numbers, redactor: Redactor | None, lag_s: float = 0.0
    ) -> None:
        """``lag_s``: how late pieces may be told."""
        self._lag_s = lag_s
        self._words = Words(clock, lag_s)
        self._segments = Segments(speaker, self._words, numbers)
        self._blackening = Blackening(redactor) if redactor else None
        self._told: deque[int] = deque(maxlen=16)
        """Segments that were given out lately."""

    def add(self, position: int, piece: str, scripted: bool, now_s: float) -> None:
        """Take a piece of text (``Words.add``)."""
        self._words.add(position, piece, scripted, now_s)

    def advance(self, now_s: float, *, final: bool = False) -> Iterator[WordOf | Spoken]:
        """Give out each word that is complete, and each segment after its words once it is closed."""
        for told in self._segments.advance(now_s, final=final):
            if self._blackening is None:
                if isinstance(told, Spoken):
                    self._told.append(told.number)
                yield told
            elif isinstance(told, Spoken):
                yield from self._each(self._blackening.add(told))
        if self._blackening is not None:
            speaking = self._segments.speaking
            yield from self._each(self._blackening.advance(now_s - self._lag_s, speaking=speaking, final=final))

    def interrupted(self, at_s: float, now_s: float) -> Spoken | None:
        """The speaker was interrupted; returns the segment that this befell where it was given out already."""
        spoken = self._segments.interrupted(at_s, now_s)
        return spoken if spoken is not None and spoken.number in self._told else None

    def _each(self, released: Iterator[Spoken]) -> Iterator[WordOf | Spoken]:
        for spoken in released:
            self._told.append(spoken.number)
            yield from (WordOf(word, spoken) for word in spoken.words)
            yield spoken
