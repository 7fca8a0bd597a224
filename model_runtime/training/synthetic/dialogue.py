"""Who says what when: a dialogue of two voices, planned before anything is rendered. Pure; randomness is a parameter.

The agent speaks from frame boundaries on and at fixed delays, so that its codes and its timing can be learnt; the
caller takes its time, hesitates, interrupts, hums along, makes noises, or falls silent. Whoever speaks is behind the
protocol ``Cast``: espeak-ng, or utterances that were encoded before (composing.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final, Literal, Protocol

import numpy as np

from config.audio import FRAME_S
from model_runtime.training.recordings import Word
from model_runtime.training.synthetic.script import BACKCHANNEL, HESITATION, Phrase, Reply, World, fill_slots

_BEFORE_BARGE_IN: Final = 5
"""Frames that the agent has spoken at least when it is interrupted."""
_BEFORE_BACKCHANNEL_S: Final = 0.4
_AFTER_BACKCHANNEL_S: Final = 0.3
_PAUSE_S: Final = (0.25, 0.7)
"""After a hesitation."""

Kind = Literal["greeting", "reply", "still_there", "question", "interruption", "backchannel", "hesitation"]


class Clip(Protocol):
    """Something that was said once, and can be said again."""

    @property
    def text(self) -> str:
        """What is said."""

    @property
    def words(self) -> Sequence[Word]:
        """Its words, in seconds from its beginning."""


class Cast(Protocol):
    """The two who speak."""

    aligned: bool
    """Whether the caller begins on frame boundaries too."""

    def agent(self, text: str) -> Clip:
        """The agent saying a text."""

    def caller(self, intent: str, random: np.random.Generator) -> tuple[Phrase, Clip] | None:
        """The caller wanting something, a back-channel or a hesitation; None where this caller cannot say it."""

    def cuts(self, clip: Clip) -> Sequence[int]:
        """The frames of a clip of the agent's that it can be cut before."""


@dataclass(frozen=True, slots=True)
class Said:
    """A clip in a dialogue."""

    speaker: Literal["agent", "caller"]
    kind: Kind
    intent: str
    """What the caller wants, or what the agent answers."""
    start: float
    """Seconds; the agent's on a frame boundary."""
    clip: Clip
    cut: float | None = None
    """When it falls silent before its end."""

    @property
    def frame(self) -> int:
        """The frame that it begins in."""
        return int(self.start / FRAME_S + 1e-6)

    @property
    def end(self) -> float:
        """When nothing is said any more."""
        end = self.start + self.clip.words[-1].end
        return end if self.cut is None else min(end, self.cut)

    def words(self) -> list[Word]:
        """The words that were begun, in seconds of the dialogue."""
        words = [word.later(self.start) for word in self.clip.words]
        if self.cut is None:
            return words
        return [Word(each.text, each.start, min(each.end, self.cut)) for each in words if each.start < self.cut]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What is said, by the time at which it begins."""

    said: tuple[Said, ...]
    frames: int
    ended: str | None
    """The action that ends the call; None where it would go on."""
    bursts: tuple[float, ...] = ()
    """When the caller makes a noise."""
    late: bool = False
    """Whether it begins after the greeting."""

    def words(self, speaker: Literal["agent", "caller"]) -> list[Word]:
        """All words of one of the two, in seconds."""
        return [word for each in self.said if each.speaker == speaker for word in each.words()]


def plan_dialogue(world: World, cast: Cast, random: np.random.Generator, *, late: bool = False) -> Dialogue:
    """A dialogue of some turns; one that is ``late`` begins after the greeting, when the caller may speak."""
    return _Plan(world, cast, random).make(late)


class _Plan:
    """A dialogue in the making."""

    def __init__(self, world: World, cast: Cast, random: np.random.Generator) -> None:
        self._world, self._cast, self._random = world, cast, random
        self._said: list[Said] = []
        self._bursts: list[float] = []
        self._state = "open"
        self._slots: dict[str, str] = {}
        self._last: str = world.greeting
        self._free = 0.0  # nobody speaks from here on
        self._barged = False
        """Whether the agent is interrupted by the next turn."""
        self._ended: str | None = None

    def make(self, late: bool) -> Dialogue:
        if not late:
            self._agent(self._world.timing.greeting_frame, "greeting", "", self._world.greeting)
        least, most = self._world.turns
        for _ in range(int(self._random.integers(least, most + 1))):
            if not self._turn() or self._ended:
                break
        if self._barged:  # nobody is left to interrupt
            self._said[-1] = replace(self._said[-1], cut=None)
            self._free = self._said[-1].end
        frames = ceil((self._free + self._random.uniform(*self._world.timing.tail_s)) / FRAME_S)
        said = tuple(sorted(self._said, key=lambda each: each.start))
        return Dialogue(said, frames, self._ended, tuple(b for b in self._bursts if b < frames * FRAME_S), late)

    def _turn(self) -> bool:
        """What the caller says or does not say, and the answer; false where this caller has nothing to say."""
        chance = self._random.random(3)
        shares, timing = self._world.shares, self._world.timing
        if chance[0] < shares.silent and not self._barged and self._said:
            self._silence()
            return True
        asked = self._draw()
        if asked is None:
            return False
        phrase, clip = asked
        onset = clip.words[0].start
        if self._barged:
            interrupted = self._said[-1]
            assert interrupted.cut is not None
            frame = round(interrupted.cut / FRAME_S) - timing.cut_frames
            within = onset % FRAME_S if self._cast.aligned else self._random.uniform(0, FRAME_S)
            start = frame * FRAME_S + within - onset
        else:
            start = self._free + self._random.uniform(*timing.caller_gap_s)
            if chance[1] < shares.burst:
                self._bursts.append(self._random.uniform(self._free - 0.6, start - 0.2))
            if chance[2] < shares.hesitation:
                start = self._hesitate(start)
            start = self._aligned(start)
        self._said.append(Said("caller", "interruption" if self._barged else "question", phrase.intent, start, clip))
        self._barged = False
        self._answer(phrase, self._said[-1].end)
        return True

    def _draw(self) -> tuple[Phrase, Clip] | None:
        possible = self._world.possible(self._state)
        if self._barged:
            possible.pop("check", None)
        for _ in range(8):
            names, weights = list(possible), np.array(list(possible.values()))
            intent = names[int(self._random.choice(len(names), p=weights / weights.sum()))]
            if drawn := self._cast.caller(intent, self._random):
                return drawn
        return None

    def _hesitate(self, start: float) -> float:
        """Say "um" at ``start``; when to go on."""
        if (drawn := self._cast.caller(HESITATION, self._random)) is None:
            return start
        said = Said("caller", "hesitation", HESITATION, self._aligned(start), drawn[1])
        self._said.append(said)
        return said.end + self._random.uniform(*_PAUSE_S)

    def _silence(self) -> None:
        """The caller says nothing, and the agent asks why; a second time it ends the call."""
        again = self._state == self._world.still_there.then
        reply = self._world.silent_again if again else self._world.still_there
        frame = ceil((self._free + self._world.timing.silence_s) / FRAME_S)
        self._agent(frame, "still_there", "", reply.say)
        self._state, self._ended = reply.then, reply.action

    def _answer(self, phrase: Phrase, end: float) -> None:
        """Reply to what ended just now."""
        if self._world.intents[phrase.intent].fresh:
            self._slots = {}
        self._slots |= phrase.slots
        reply = self._world.reply(phrase.intent, self._state, self._slots)
        text = self._last if reply.again else fill_slots(reply.say, self._slots)
        frame = ceil(end / FRAME_S - 1e-6) + self._world.timing.reply_frames
        self._agent(frame, "reply", phrase.intent, text)
        if not reply.again:
            self._last, self._state = text, reply.then
        if reply.forget:
            self._slots = {}
        self._ended = reply.action
        self._disturb(reply)

    def _disturb(self, reply: Reply) -> None:
        """Perhaps interrupt the reply that was placed just now, or hum along."""
        said, shares = self._said[-1], self._world.shares
        barges, hums = self._random.random(2)
        if barges < shares.barge_in and not reply.action:
            first = _BEFORE_BARGE_IN + self._world.timing.cut_frames
            last = int((said.end - said.start - shares.barge_in_left_s) / FRAME_S) + self._world.timing.cut_frames
            cuts = [cut for cut in self._cast.cuts(said.clip) if first <= cut <= last]
            if cuts:
                cut = cuts[int(self._random.integers(len(cuts)))]
                self._said[-1] = replace(said, cut=(said.frame + cut) * FRAME_S)
                self._barged, self._state = True, "open"
                return
        if hums < shares.backchannel and (drawn := self._cast.caller(BACKCHANNEL, self._random)):
            clip = drawn[1]
            earliest = said.start + _BEFORE_BACKCHANNEL_S
            latest = said.end - _AFTER_BACKCHANNEL_S - clip.words[-1].end
            if latest > earliest:
                start = self._aligned(self._random.uniform(earliest, latest))
                self._said.append(Said("caller", "backchannel", BACKCHANNEL, start, clip))

    def _agent(self, frame: int, kind: Kind, intent: str, text: str) -> None:
        self._said.append(Said("agent", kind, intent, frame * FRAME_S, self._cast.agent(text)))
        self._free = self._said[-1].end

    def _aligned(self, start: float) -> float:
        return ceil(start / FRAME_S) * FRAME_S if self._cast.aligned else start
