"""What one caller of a suite will do, drawn before the call: voice, words, sounds, and the right answers. Pure.

The same suite, seed and number give the same caller, whatever the control: so a control is paired with the real one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from agent.evaluation.replies import Replies
from agent.evaluation.schema import NOTHING, Control, Expectation, Interrupt, Noise, Say, Seconds, Step, Suite, Turns
from config.audio import SAMPLE_RATE
from model_runtime.errors import LocalModelError
from model_runtime.training.augment import noise
from model_runtime.training.resample import Audio
from model_runtime.training.synthetic.rendering import burst
from model_runtime.training.synthetic.script import BACKCHANNEL, Phrase, Reply, Wording, World, fill_slots
from model_runtime.training.synthetic.speech import LEVEL_DB, begin_anew, speak
from model_runtime.training.synthetic.voices import Voice, draw_voice

Kind = Literal["say", "interrupt", "backchannel", "noise", "silence", "wait", "dtmf"]

_TRIES: Final = 400
_MOST_TURNS: Final = 400
_TURN_S: Final = 4.0
"""No turn and its answer take less on average; so many turns are planned for a call of a given length."""
_PROBED: Final = {"says": "say", "interrupts": "interrupt", "backchannels": "backchannel", "noises": "noise"}


class PlanError(LocalModelError):
    """A suite asks for what its world does not have."""


@dataclass(frozen=True)
class Sound:
    """Something that the caller's mouth does."""

    audio: Audio
    """``float32 [n]`` at 24 kHz."""
    onset_s: float
    """Where in it something begins to be heard, the first word, and where the last one ends."""
    end_s: float


@dataclass(frozen=True)
class Cue:
    """One thing that the caller will do."""

    kind: Kind
    step: int
    """Of the suite."""
    after_s: float = 0.0
    sound: Sound | None = None
    text: str = ""
    intent: str = ""
    reply: str | None = None
    """The right answer, word for word."""
    action: str | None = None
    """What that answer does to the call."""
    left_s: float = 0.0
    seconds: float = 0.0
    keys: str = ""
    in_speech: bool = True
    """A noise: while the agent speaks."""
    until_s: float | None = None
    """Left out from this second of the call on."""
    muted: bool = False
    """Not heard, or noise instead: a control."""
    expect: Expectation = NOTHING

    @property
    def is_turn(self) -> bool:
        """Whether it asks for an answer."""
        return self.kind in ("say", "interrupt")


@dataclass(frozen=True)
class Plan:
    """One caller."""

    number: int
    seed: int
    voice: Voice
    cues: tuple[Cue, ...]
    control: Control | None = None


class Planner:
    """Draws the callers of a suite."""

    def __init__(self, suite: Suite, world: World, replies: Replies) -> None:
        self._suite, self._world, self._replies = suite, world, replies
        self._steps = list(_written_out(suite))

    def plan(self, number: int, control: Control | None = None) -> Plan:
        """Caller ``number``; raises ``PlanError``."""
        random = np.random.default_rng([self._suite.seed, number])
        voice = draw_voice(self._suite.voices, random)
        begin_anew()
        cues = tuple(_Part(self._suite, self._world, self._replies, voice, random).play(self._steps))
        if control is not None and self._suite.probe in _PROBED:
            aside = np.random.default_rng([self._suite.seed, number, 1])
            probed = _PROBED[self._suite.probe]
            cues = tuple(_controlled(cue, control, aside) if cue.kind == probed else cue for cue in cues)
        return Plan(number, int(random.integers(2**31)), voice, cues, control)


class _Part:
    """A caller's part in the making, and what the dialogue has come to if all answers are right."""

    def __init__(self, suite: Suite, world: World, replies: Replies, voice: Voice, random: np.random.Generator) -> None:
        self._suite, self._world, self._replies = suite, world, replies
        self._voice, self._random = voice, random
        self._state = "open"
        self._slots: dict[str, str] = {}
        self._last = world.greeting
        self._interrupted = False

    def play(self, steps: list[tuple[int, Step, Turns | None]]) -> Iterator[Cue]:
        for place, (number, step, turns) in enumerate(steps):
            following = steps[place + 1][1] if place + 1 < len(steps) else None
            if step.interrupt is not None:
                self._state, self._interrupted = "open", True
            said = step.say or step.interrupt
            if said is not None:
                last = all(each[1].silence or each[1].wait for each in steps[place + 1 :])
                cue = self._turn(said, _room(following), last and (turns is None or turns.ending))
                cue = replace(
                    cue,
                    kind="say" if step.say else "interrupt",
                    left_s=said.left_s if isinstance(said, Interrupt) else 0.0,
                )
                self._interrupted = False
            else:
                cue = self._other(step)
            yield replace(cue, step=number, expect=step.expect, until_s=turns.until_s if turns else None)

    def _turn(self, said: Say | Interrupt, room_s: float, last: bool) -> Cue:
        """Something that wants an answer, one that takes ``room_s`` at least, and ends the call only as the last."""
        after_s = self._time(said.after_s)
        if said.text is not None:
            return Cue("say", 0, after_s, self._speech(said.text), said.text, reply=said.reply)
        wording: Wording = said.wording or self._suite.wording
        for _ in range(_TRIES):
            phrase = self._phrase(said.intent or "any", wording)
            slots = dict({} if self._world.intents[phrase.intent].fresh else self._slots) | dict(phrase.slots)
            try:
                reply = self._world.reply(phrase.intent, self._state, slots)
            except LookupError:
                continue
            text = self._last if reply.again else fill_slots(reply.say, slots)
            ends = bool(reply.action) and not last
            if not ends and (not room_s or self._replies.length_s(text) >= room_s):
                self._go_on(reply, text, slots)
                sound = self._speech(phrase.text)
                return Cue("say", 0, after_s, sound, phrase.text, phrase.intent, text, reply.action)
        raise PlanError(
            f"{self._suite.name}: nothing that callers may say in {self._state!r} ({said.intent or 'any'}) "
            f"has an answer of {room_s:.1f} s that does not end the call"
        )

    def _phrase(self, intent: str, wording: Wording) -> Phrase:
        if intent == "any":
            possible = self._world.possible(self._state)
            if self._interrupted:  # "are you there?" makes no sense then, and nobody is trained on it
                possible.pop("check", None)
            names, weights = list(possible), np.array(list(possible.values()))
            intent = names[int(self._random.choice(len(names), p=weights / weights.sum()))]
        return self._world.draw(intent, self._random, wording)

    def _go_on(self, reply: Reply, text: str, slots: dict[str, str]) -> None:
        """What the dialogue comes to by a right answer."""
        self._slots = {} if reply.forget else slots
        if not reply.again:
            self._last, self._state = text, reply.then

    def _other(self, step: Step) -> Cue:
        if step.backchannel is not None:
            text = step.backchannel.text or self._world.draw(BACKCHANNEL, self._random).text
            after_s = self._time(step.backchannel.after_s)
            return Cue("backchannel", 0, after_s, self._speech(text), text, left_s=step.backchannel.left_s)
        if step.noise is not None:
            after_s, in_speech = self._time(step.noise.after_s), step.noise.during == "speech"
            sound = self._noise(step.noise)
            return Cue("noise", 0, after_s, sound, step.noise.kind, left_s=step.noise.left_s, in_speech=in_speech)
        if step.dtmf is not None:
            return Cue("dtmf", 0, self._time(step.dtmf.after_s), keys=step.dtmf.keys)
        if step.silence is not None:
            return Cue("silence", 0, seconds=step.silence.seconds)
        assert step.wait is not None
        return Cue("wait", 0, seconds=step.wait.most_s)

    def _time(self, span: Seconds) -> float:
        return float(self._random.uniform(span.least, span.most))

    def _speech(self, text: str) -> Sound:
        said = speak(text, self._voice)
        return Sound(said.audio, said.words[0].start, said.words[-1].end)

    def _noise(self, about: Noise) -> Sound:
        if about.kind == "burst":
            made = burst(self._random)
        else:
            made = _faded(noise(round(about.lasts_s * SAMPLE_RATE), about.kind, self._random))
        level = 10 ** (about.level_db / 20) / max(1e-9, float(np.sqrt(np.mean(made**2))))
        return Sound(np.clip(made * np.float32(level), -1, 1), 0.0, len(made) / SAMPLE_RATE)


def _written_out(suite: Suite) -> Iterator[tuple[int, Step, Turns | None]]:
    """The steps by their numbers, ``turns`` as so many of ``say``."""
    for number, step in enumerate(suite.steps):
        if step.turns is None:
            yield number, step, None
            continue
        count = step.turns.count or min(_MOST_TURNS, 1 + round((step.turns.until_s or 0) / _TURN_S))
        say = Step(say=Say(intent="any", wording=step.turns.wording, after_s=step.turns.after_s), expect=step.expect)
        for _ in range(count):
            yield number, say, step.turns


def _room(following: Step | None) -> float:
    """How long an answer must be so that what follows can happen while it is said."""
    if following is None:
        return 0.0
    noise_in_speech = following.noise if following.noise and following.noise.during == "speech" else None
    into = following.interrupt or following.backchannel or noise_in_speech
    return 0.0 if into is None else into.after_s.most + into.left_s


def _controlled(cue: Cue, control: Control, random: np.random.Generator) -> Cue:
    """The cue with its sound taken away, or noise of the same length instead."""
    if cue.sound is None:
        return cue
    audio = np.zeros_like(cue.sound.audio)
    if control == "noise":
        first, last = round(cue.sound.onset_s * SAMPLE_RATE), round(cue.sound.end_s * SAMPLE_RATE)
        last = min(last, len(audio))
        audio[first:last] = _faded(noise(last - first, "pink", random)) * np.float32(10 ** (LEVEL_DB / 20))
    return replace(cue, sound=replace(cue.sound, audio=audio), muted=True)


def _faded(audio: Audio) -> Audio:
    """``audio [n]`` without clicks at its ends."""
    ramp = min(len(audio) // 2, SAMPLE_RATE // 100)
    shape = np.ones(len(audio), np.float32)
    shape[:ramp] = np.linspace(0, 1, ramp)
    shape[len(audio) - ramp :] = np.linspace(1, 0, ramp)
    return audio * shape
