"""What a caller notices of the agent as it comes: voice, words, whether a reply has begun and ended. Pure."""

from typing import Final, NamedTuple

from agent.measures.speech import Speech, levels
from config.audio import FRAME_S
from telephony.call import Frame

QUIET_S: Final = 0.6
"""After so much of it the agent has ended; within its sentences it pauses for 0.4 s at most."""


class Word(NamedTuple):
    """A word of the agent's, and when it began to be heard."""

    at_s: float
    text: str


class Words:
    """Words made of a text stream's pieces: a piece that begins with a space begins a word."""

    def __init__(self) -> None:
        self.all: list[Word] = []

    def push(self, at_s: float, piece: str) -> None:
        """Take in the piece of a frame; mostly nothing."""
        first, *others = piece.split(" ")
        if first and self.all:
            last = self.all[-1]
            self.all[-1] = Word(last.at_s, last.text + first)
        elif first:
            others.insert(0, first)
        self.all += [Word(at_s, each) for each in others if each]

    def since(self, at_s: float) -> list[str]:
        """The words that began then or later."""
        found: list[str] = []
        for word in reversed(self.all):
            if word.at_s < at_s:
                break
            found.append(word.text)
        return found[::-1]


class Ear:
    """The agent as the caller hears it, frame by frame."""

    def __init__(self) -> None:
        self.words = Words()
        self.now_s = 0.0
        self._speech = Speech()
        self._starts: list[float] = []

    def hear(self, frame: Frame, text: str) -> None:
        """Take in the next frame, ``int16 [1920]``, and what the text stream gave with it."""
        self.words.push(self.now_s, text)
        segment = self._speech.hear(levels(frame), self.now_s)
        if segment is not None and segment.end_s is None:
            self._starts.append(segment.start_s)
        self.now_s += FRAME_S

    @property
    def speaking(self) -> bool:
        """Whether the agent speaks, or did 0.3 s ago."""
        return self._speech.speaking

    @property
    def heard_s(self) -> float:
        """When its voice was last heard; 0 before the first time."""
        return self._speech.heard_s or 0.0

    @property
    def quiet_s(self) -> float:
        """For how long it has not been heard."""
        return self.now_s - self.heard_s

    def began_after(self, at_s: float) -> float | None:
        """When its voice first began after ``at_s``; None where it has not."""
        return next((start for start in self._starts if start > at_s), None)
