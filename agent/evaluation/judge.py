"""What is to be said of one call that was held: answers, disturbances, expectations. Pure.

Voice is judged by sound (agent/measures/speech.py), words by the text stream, what the caller did by what it sent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from agent.evaluation.caller import Done
from agent.evaluation.plan import Cue, Kind
from agent.evaluation.replies import Replies, plain
from agent.evaluation.schema import Control, Expectation, Suite
from agent.evaluation.talk import Held
from agent.evaluation.voice import Segments, joined, voiced
from model_runtime.training.synthetic.script import once

STOPPED_S: Final = 0.9
"""An agent that is silent so soon after the caller began has stopped for the caller."""
FALSE_START_S: Final = 3.0
"""An agent that begins to speak so soon after a noise has taken it for speech."""
_PAUSE_S: Final = 0.4
"""The longest pause within a sentence of the agent's."""
_HANG_UP_S: Final = 8.0


@dataclass(frozen=True)
class Answer:
    """What came after something that the caller said. Of a control only ``gap_s`` and ``early`` mean anything."""

    kind: Kind
    intent: str
    asked: str
    expected: str | None
    said: str
    onset_s: float
    end_s: float
    gap_s: float | None
    """From the end of the caller's last word to the beginning of the agent's voice; None where none came in time."""
    early: bool
    """Whether voice or words came before that end."""
    right: bool | None
    """Whether it is the right reply, if not in every word; None where that cannot be told."""
    exact: bool | None
    """Whether it is in every word; None where it was cut off, too."""
    exact_once: bool | None
    """The same, words told twice in a row counted once."""
    muted: bool = False


@dataclass(frozen=True)
class Disturbance:
    """Something of the caller's that was heard while the agent spoke, or while nobody did."""

    kind: Kind
    onset_s: float
    stop_s: float | None
    """How long the agent's voice went on, ``inf`` where it did to the end of the call; None where it did not speak."""
    finished: bool | None = None
    """Whether the reply was said to its end all the same."""
    false_start: bool | None = None
    """Whether the agent began to speak because of it; None where it was speaking anyway."""


@dataclass(frozen=True)
class Check:
    """An expectation of a step, and whether it was met."""

    step: int
    what: str
    met: bool


@dataclass(frozen=True)
class Judged:
    """A call, judged."""

    number: int
    control: Control | None
    voice: str
    call: str
    fault: str
    duration_s: float
    greeting: bool | None = None
    greeting_once: bool | None = None
    answers: list[Answer] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What the caller could not do, and why."""
    undisturbed: list[bool] = field(default_factory=list)
    """Of each thing said without interruption: whether it was one sentence, not broken off, and no more."""
    hung_up: bool | None = None
    """Whether the agent ended the call where it should; None where it should not."""
    checks: list[Check] = field(default_factory=list)
    transcript: list[bool] = field(default_factory=list)
    """Of each sentence in the text stream: whether an independent recogniser heard it; empty where none listened."""


def judge(held: Held, suite: Suite, replies: Replies, greeting: str) -> Judged:
    """Say what is to be said of a call; ``greeting`` is the right one."""
    about = held.plan.number, held.plan.control, held.plan.voice.name, held.call, held.fault, held.duration_s
    if not len(held.agent):
        return Judged(*about)
    return _Case(held, suite, replies, greeting).judged(Judged(*about))


class _Case:
    """A call before the judge."""

    def __init__(self, held: Held, suite: Suite, replies: Replies, greeting: str) -> None:
        self._held, self._suite, self._replies, self._greeting = held, suite, replies, greeting
        self._segments = voiced(held.agent)
        self._joined: Segments = joined(self._segments, _PAUSE_S)
        self._done = [each for each in held.done if not each.left_out]
        self._turns = [each for each in self._done if each.cue.is_turn]

    def judged(self, about: Judged) -> Judged:
        answers = [self._answer(number) for number in range(len(self._turns))]
        greeting = self._before_first_turn()
        return Judged(
            about.number,
            about.control,
            about.voice,
            about.call,
            about.fault,
            about.duration_s,
            None if greeting is None else greeting == self._greeting.split(),
            None if greeting is None else once(greeting) == self._greeting.split(),
            answers,
            list(self._disturbances()),
            list(self._left_out()),
            list(self._undisturbed(greeting)),
            self._hung_up(answers),
            list(self._checks(answers)),
        )

    def _left_out(self) -> Iterator[str]:
        for done in self._held.done:
            if done.left_out:
                yield f"{done.cue.kind}: {done.left_out}"
        for cue in self._never():
            yield f"{cue.kind}: the call was over"

    def _never(self) -> list[Cue]:
        """Cues that the call did not last for; turns that were to go on until some time are not missed."""
        begun = {id(each.cue) for each in self._held.done}
        return [cue for cue in self._held.plan.cues if id(cue) not in begun and cue.until_s is None]

    def _words(self, first_s: float, last_s: float) -> list[str]:
        return [word.text for word in self._held.words if first_s <= word.at_s < last_s]

    def _window(self, number: int) -> tuple[float, float]:
        """When the words of an answer may begin: from the turn, or the end of what it cut off, to the next turn."""
        turn = self._turns[number]
        last_s = self._turns[number + 1].onset_s if number + 1 < len(self._turns) else inf
        if turn.cue.kind != "interrupt":
            return turn.onset_s, last_s
        stop_s = self._stop_s(turn.onset_s)
        return (turn.end_s if stop_s is None or stop_s == inf else turn.onset_s + stop_s), last_s

    def _cut_off(self, number: int) -> bool:
        return number + 1 < len(self._turns) and self._turns[number + 1].cue.kind == "interrupt"

    def _answer(self, number: int) -> Answer:
        turn, cut = self._turns[number], self._cut_off(number)
        first_s, last_s = self._window(number)
        words = self._words(first_s, self._end_of_cut(number) if cut else last_s)
        voice_s = next((start for start, _ in self._segments if turn.onset_s < start < last_s), None)
        late = voice_s is None or voice_s > turn.end_s + self._suite.reply_within_s or self._replies.is_prompt(words)
        speaking = any(start <= turn.onset_s < end for start, end in self._segments)
        early = not late and voice_s is not None and voice_s < turn.end_s
        if not speaking or turn.cue.kind == "interrupt":
            early = early or bool(self._words(first_s, turn.end_s))
        expected = turn.cue.reply
        right = exact = exact_once = None
        if expected is not None and not turn.cue.muted:
            closest = self._replies.closest(words, cut=cut, also=expected)
            if not cut or len(plain(words)) >= 2:
                right = closest is not None and self._replies.family(closest) == self._replies.family(expected)
            if not cut:
                exact, exact_once = words == expected.split(), once(words) == expected.split()
        return Answer(
            turn.cue.kind,
            turn.cue.intent,
            turn.cue.text,
            expected,
            " ".join(words),
            turn.onset_s,
            turn.end_s,
            None if late or voice_s is None else voice_s - turn.end_s,
            early,
            right,
            exact,
            exact_once,
            turn.cue.muted,
        )

    def _end_of_cut(self, number: int) -> float:
        """When the words of a reply end that the next turn interrupts."""
        return self._window(number + 1)[0]

    def _before_first_turn(self) -> list[str] | None:
        """The words of the greeting, before anything that may be answered; None where the caller cut it off."""
        first = next((each for each in self._done if each.cue.is_turn or not each.cue.in_speech), None)
        if first is not None and first.cue.kind == "interrupt":
            return None
        return self._words(0, first.onset_s if first else inf)

    def _stop_s(self, onset_s: float) -> float | None:
        """How long the voice goes on after ``onset_s``: None where it does not sound then, inf where to the end."""
        for start, end in self._joined:
            if start <= onset_s < end:
                return inf if end > self._held.duration_s - _PAUSE_S else end - onset_s
        return None

    def _disturbances(self) -> Iterator[Disturbance]:
        for place, done in enumerate(self._done):
            if done.cue.kind in ("interrupt", "backchannel") or (done.cue.kind == "noise" and done.cue.in_speech):
                finished = None if done.cue.kind == "interrupt" else self._replies.is_whole(self._reply_around(done))
                yield Disturbance(done.cue.kind, done.onset_s, self._stop_s(done.onset_s), finished)
            elif done.cue.kind == "noise":
                later = [each.onset_s for each in self._done[place + 1 :] if each.cue.sound is not None]
                until_s = min([done.onset_s + FALSE_START_S, *later])
                speaking = any(start <= done.onset_s < end for start, end in self._joined)
                started = any(done.onset_s < start < until_s for start, _ in self._segments)
                yield Disturbance(done.cue.kind, done.onset_s, None, None, None if speaking else started)

    def _reply_around(self, done: Done) -> list[str]:
        """All words of the reply into which something fell."""
        before = [number for number, turn in enumerate(self._turns) if turn.onset_s < done.onset_s]
        return self._words(*self._window(before[-1])) if before else (self._before_first_turn() or [])

    def _undisturbed(self, greeting: Sequence[str] | None) -> Iterator[bool]:
        texts = [] if greeting is None else [list(greeting)]
        texts += [self._words(*self._window(number)) for number in range(len(self._turns)) if not self._cut_off(number)]
        for words in texts:
            if words:
                yield self._replies.is_one(words)

    def _hung_up(self, answers: Sequence[Answer]) -> bool | None:
        """By a BYE; straight against the engine, which has none, by the words that set it off."""
        if not self._turns or self._turns[-1].cue.action != "hangup" or self._turns[-1].cue.muted:
            return None
        if self._held.call:
            hung_up_s = self._held.hung_up_s
            return hung_up_s is not None and hung_up_s <= self._turns[-1].end_s + _HANG_UP_S
        return bool(answers[-1].exact_once)

    def _checks(self, answers: Sequence[Answer]) -> Iterator[Check]:
        for place, done in enumerate(self._held.done):
            expect = done.cue.expect
            if expect.nothing or done.cue.muted:
                continue
            if done.left_out:
                yield Check(done.cue.step, f"{done.cue.kind}: {done.left_out}", False)
                continue
            for what, met in self._expected(expect, place):
                yield Check(done.cue.step, what, met)
        for cue in self._never():
            if not cue.expect.nothing and not cue.muted:
                yield Check(cue.step, f"{cue.kind}: the call was over", False)

    def _expected(self, expect: Expectation, place: int) -> Iterator[tuple[str, bool]]:
        """Each thing that is expected of what came after a cue and before the next one that is heard."""
        done = self._held.done[place]
        later = [each for each in self._held.done[place + 1 :] if each.cue.sound is not None and not each.left_out]
        last_s = later[0].onset_s if later else inf
        is_wait = done.cue.kind == "wait"
        before = [each.end_s for each in self._held.done[:place] if each.cue.sound is not None and not each.left_out]
        first_s = (max(before, default=0.0)) if is_wait else done.onset_s
        if done.cue.kind == "interrupt":
            first_s = self._window(self._turns.index(done))[0]
        words = self._words(first_s, last_s)
        if expect.text is not None:
            text = self._greeting if expect.text == "greeting" else expect.text
            yield f"text {text!r}", once(words) == once(text.split())
        said = f" {' '.join(plain(words))} "
        for part in expect.text_contains:
            yield f"text contains {part!r}", f" {' '.join(plain(part.split()))} " in said
        starts = [start for start, _ in self._segments if first_s <= start < last_s]
        ended_s = first_s if is_wait else done.end_s
        if expect.within_s is not None:
            yield f"speaks within {expect.within_s} s", bool(starts) and starts[0] - ended_s <= expect.within_s
        stop_s = self._stop_s(done.onset_s)
        if expect.stops_within_s is not None:
            yield f"stops within {expect.stops_within_s} s", stop_s is not None and stop_s <= expect.stops_within_s
        if expect.goes_on:
            yield "goes on", stop_s is not None and stop_s > STOPPED_S
        if expect.quiet:
            yield "stays quiet", not starts
        if expect.hangs_up:
            yield "hangs up", self._held.hung_up_s is not None
