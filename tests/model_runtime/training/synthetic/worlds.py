"""What the tests of dialogues share: a small world, and a cast that needs no espeak-ng."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_runtime.training.recordings import Word
from model_runtime.training.synthetic.dialogue import Clip
from model_runtime.training.synthetic.script import Phrase, World

SMALL = """
name: small
agent: {voice: gmw/en-US+f2, rate: 172}
greeting: Hello there.
still_there: {say: "Are you there?", then: still_there}
silent_again: {say: Goodbye., action: hangup}
turns: [2, 3]
slots: {day: {monday: Monday, friday: Friday}}
states:
  open: {any: 1}
  still_there: {any: 1}
  booking: {"yes": 1}
backchannels: [okay]
hesitations: [um]
intents:
  hours:
    phrases: [when are you open]
    grammar: ["(when|what time) (do you|does it) (open|close) (please|)"]
    held_out: [what time open please]
    replies: [{say: "We are open from nine in the morning to six in the evening, every day."}]
  book:
    phrases: ["a table on <day>"]
    replies: [{has: [day], say: "<day>. Is that right?", then: booking}]
  "yes":
    only: [booking]
    phrases: ["yes"]
    replies: [{say: Booked., forget: true}]
  bye:
    phrases: [bye]
    replies: [{say: Goodbye., action: hangup}]
"""


def small_world(folder: Path, more: str = "") -> World:
    """The small world, read from a file."""
    path = folder / "small.yaml"
    path.write_text(SMALL + more)
    return World.load(path)


class Spoken:
    """A clip whose words take 0.3 s each."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words: Sequence[Word] = [Word(w, 0.02 + 0.3 * i, 0.3 * (i + 1)) for i, w in enumerate(text.split())]


class PlainCast:
    """Everyone speaks at the same pace, and says what the world says."""

    def __init__(self, world: World, *, aligned: bool = False) -> None:
        self.aligned = aligned
        self._world = world

    def agent(self, text: str) -> Clip:
        """The agent saying a text."""
        return Spoken(text)

    def caller(self, intent: str, random: np.random.Generator) -> tuple[Phrase, Clip] | None:
        """The caller wanting something."""
        phrase = self._world.draw(intent, random)
        return phrase, Spoken(phrase.text)

    def cuts(self, clip: Clip) -> Sequence[int]:
        """Every second frame."""
        return range(2, int(clip.words[-1].end / 0.08), 2)
