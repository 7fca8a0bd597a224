"""A world: what callers ask and in which words, and what the agent answers. Read from YAML; pure otherwise."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import yaml

from model_runtime.errors import LocalModelError
from model_runtime.training.augment import Augmentation
from model_runtime.training.synthetic.grammar import SLOT, GrammarError, expand, is_held
from model_runtime.training.synthetic.voices import Voice

WORLDS: Final = Path(__file__).parent / "worlds"
FRONT_DESK: Final = WORLDS / "front_desk.yaml"
BACKCHANNEL: Final = "backchannel"
HESITATION: Final = "hesitation"

Wording = Literal["seen", "combination", "unseen"]
"""``seen`` is trained on; ``combination`` is held out by a hash, ``unseen`` by hand."""


class WorldError(LocalModelError):
    """A world that cannot be read; the message names the file and the fault."""


class Phrase(NamedTuple):
    """What a caller says."""

    intent: str
    text: str
    slots: Mapping[str, str]
    """As the agent says them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the agent says, and what becomes of the dialogue."""

    say: str = ""
    """With slots to be filled."""
    state: str | None = None
    """Only in this state."""
    has: tuple[str, ...] = ()
    """Only where these slots are known."""
    then: str = "open"
    action: str | None = None
    """What is done after it; it ends the dialogue."""
    forget: bool = False
    """Whether what the slots hold is done with."""
    again: bool = False
    """Whether it is what the agent has said before, in the same state as then."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What a caller may want."""

    name: str
    phrases: tuple[str, ...]
    """What most callers say."""
    combinations: tuple[tuple[str, ...], ...]
    """All sentences of each rule, those that are held out too."""
    held_out: tuple[str, ...]
    replies: tuple[Reply, ...]
    weight: float = 1.0
    only: tuple[str, ...] = ()
    """States that it is possible in; all where there are none."""
    fresh: bool = False
    """Whether slots from before do not count."""

    def templates(self, wording: Wording) -> list[str]:
        """Its phrasings, slots unfilled, each once."""
        if wording == "unseen":
            return list(self.held_out)
        made = [each for rule in self.combinations for each in rule]
        known = set(self.phrases)
        if wording == "combination":
            return list(dict.fromkeys(each for each in made if is_held(each) and each not in known))
        return list(dict.fromkeys([*self.phrases, *(each for each in made if not is_held(each))]))


@dataclass(frozen=True, slots=True)
class Timing:
    """When things are said; seconds, or frames of 80 ms. A fixed reply start: jitter makes first words double."""

    greeting_frame: int = 6
    reply_frames: int = 3
    cut_frames: int = 4
    caller_gap_s: tuple[float, float] = (0.3, 1.8)
    silence_s: float = 5.0
    tail_s: tuple[float, float] = (0.8, 2.0)


@dataclass(frozen=True, slots=True)
class Shares:
    """How often things happen."""

    barge_in: float = 0.3
    barge_in_left_s: float = 1.0
    backchannel: float = 0.2
    burst: float = 0.15
    hesitation: float = 0.15
    silent: float = 0.06
    base: float = 0.2
    begin_late: float = 0.5


@dataclass(frozen=True)
class World:
    """Everything that dialogues are made of."""

    name: str
    agent: Voice
    greeting: str
    still_there: Reply
    silent_again: Reply
    intents: Mapping[str, Intent]
    states: Mapping[str, Mapping[str, float]]
    slots: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    backchannels: tuple[str, ...] = ()
    hesitations: tuple[str, ...] = ()
    timing: Timing = Timing()
    shares: Shares = Shares()
    channel: Augmentation = field(default_factory=Augmentation)
    turns: tuple[int, int] = (1, 5)

    @classmethod
    def load(cls, path: Path = FRONT_DESK) -> "World":
        """Read a world; raises ``WorldError``."""
        try:
            world = _world(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise WorldError(f"{path}: {error!r}") from error
        for fault in _faults(world):
            raise WorldError(f"{path}: {fault}")
        return world

    def possible(self, state: str) -> dict[str, float]:
        """What callers may say in a state, and its weight."""
        weights = self.states[state]
        common = {name: each.weight for name, each in self.intents.items() if not each.only}
        total = sum(common.values())
        shared = {name: weights.get("any", 0.0) * weight / total for name, weight in common.items()}
        named = {name: weight for name, weight in weights.items() if name != "any"}
        return {name: weight for name, weight in (shared | named).items() if weight}

    def draw(self, intent: str, random: np.random.Generator, wording: Wording = "seen") -> Phrase:
        """Some way to say an intent, a back-channel or a hesitation."""
        if intent in (BACKCHANNEL, HESITATION):
            small = self.backchannels if intent == BACKCHANNEL else self.hesitations
            return Phrase(intent, small[int(random.integers(len(small)))], {})
        choices = self._templates[intent, wording] or [list(self.intents[intent].phrases)]
        if wording == "seen" and random.random() < self.shares.base:
            choices = [list(self.intents[intent].phrases)]
        rule = choices[int(random.integers(len(choices)))]  # rules are equally likely, however many sentences they make
        return self.fill(intent, rule[int(random.integers(len(rule)))], random)

    def fill(self, intent: str, template: str, random: np.random.Generator) -> Phrase:
        """A phrasing with some value in each of its slots."""
        text, slots = template, {}
        for name in SLOT.findall(template):
            values = list(self.slots[name])
            value = values[int(random.integers(len(values)))]
            text = text.replace(f"<{name}>", value)
            slots[name] = self.slots[name][value]
        return Phrase(intent, text, slots)

    def reply(self, intent: str, state: str, slots: Mapping[str, str]) -> Reply:
        """The answer to an intent; its text still has its slots."""
        for each in self.intents[intent].replies:
            if each.state in (None, state) and set(each.has) <= set(slots):
                return each
        raise LookupError(f"no reply to {intent} in {state} with {dict(slots)}")

    @cached_property
    def agent_texts(self) -> list[str]:
        """All that the agent ever says, each once."""
        replies = [each for intent in self.intents.values() for each in intent.replies if not each.again]
        says = [self.greeting, self.still_there.say, self.silent_again.say, *(each.say for each in replies)]
        return list(dict.fromkeys(text for say in says for text in self._filled(say)))

    @cached_property
    def agent_words(self) -> list[str]:
        """The words of all that the agent says, with their punctuation, in order of their alphabet."""
        return sorted({word for text in self.agent_texts for word in text.split()})

    @cached_property
    def caller_words(self) -> list[str]:
        """The words of all phrasings that are trained on, without punctuation, in order of their alphabet."""
        texts = [*self.backchannels, *self.hesitations, *(value for values in self.slots.values() for value in values)]
        for intent in self.intents.values():
            texts += [SLOT.sub(" ", each) for each in intent.templates("seen")]
        return sorted({bare(word) for text in texts for word in text.split()} - {""})

    @cached_property
    def _templates(self) -> dict[tuple[str, str], list[list[str]]]:
        """Per intent and wording, the sentences of each rule that has any."""
        aside: tuple[Wording, ...] = ("combination", "unseen")
        found: dict[tuple[str, str], list[list[str]]] = {}
        for name, intent in self.intents.items():
            rules = [[each for each in rule if not is_held(each)] for rule in intent.combinations]
            found[name, "seen"] = [rule for rule in rules if rule]
            for wording in aside:
                found[name, wording] = [made] if (made := intent.templates(wording)) else []
        return found

    def _filled(self, say: str) -> Iterator[str]:
        names = list(dict.fromkeys(SLOT.findall(say)))
        for values in product(*(self.slots[name].values() for name in names)):
            yield fill_slots(say, dict(zip(names, values, strict=True)))


def fill_slots(say: str, slots: Mapping[str, str]) -> str:
    """A reply with its slots filled, its first letter large."""
    text = SLOT.sub(lambda match: slots[match[1]], say)
    return text[:1].upper() + text[1:]


def bare(word: str) -> str:
    """A word without punctuation around it."""
    return word.strip(",.?!").lower()


def once(words: Iterable[str]) -> list[str]:
    """Words without those that repeat the one before."""
    kept: list[str] = []
    for word in words:
        if not kept or kept[-1] != word:
            kept.append(word)
    return kept


def _world(about: dict[str, Any]) -> World:
    macros = about.get("macros", {})
    agent = dict(about["agent"])
    return World(
        name=about["name"],
        agent=Voice(name=agent.pop("voice"), **agent),
        greeting=about["greeting"],
        still_there=Reply(**about["still_there"]),
        silent_again=Reply(**about["silent_again"]),
        intents={name: _intent(name, each, macros) for name, each in about["intents"].items()},
        states=about["states"],
        slots=about.get("slots", {}),
        backchannels=tuple(about.get("backchannels", ())),
        hesitations=tuple(about.get("hesitations", ())),
        timing=Timing(**_tuples(about.get("timing", {}))),
        shares=Shares(**about.get("shares", {})),
        channel=Augmentation(**_tuples(about.get("channel", {}))),
        turns=tuple(about.get("turns", (1, 5))),
    )


def _intent(name: str, about: dict[str, Any], macros: Mapping[str, str]) -> Intent:
    rest = {key: value for key, value in about.items() if key not in ("phrases", "grammar", "held_out", "replies")}
    try:
        combinations = tuple(tuple(expand(rule, macros)) for rule in about.get("grammar", ()))
    except GrammarError as error:
        raise ValueError(f"{name}: {error}") from error
    return Intent(
        name=name,
        phrases=tuple(about["phrases"]),
        combinations=combinations,
        held_out=tuple(about.get("held_out", ())),
        replies=tuple(Reply(**_tuples(each)) for each in about["replies"]),
        **_tuples(rest),
    )


def _tuples(about: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in about.items()}


def _faults(world: World) -> Iterator[str]:
    """What a world says of things that it does not have."""
    for intent in world.intents.values():
        for reply in intent.replies:
            for state in (reply.state, reply.then):
                if state is not None and state not in world.states:
                    yield f"{intent.name}: no state {state}"
        texts = [*intent.phrases, *intent.held_out, *(each for rule in intent.combinations for each in rule)]
        for slot in {slot for text in texts for slot in SLOT.findall(text)} - set(world.slots):
            yield f"{intent.name}: no slot {slot}"
    for state, weights in world.states.items():
        for name in set(weights) - set(world.intents) - {"any"}:
            yield f"{state}: no intent {name}"
        for name in weights:
            if name in world.intents and (only := world.intents[name].only) and state not in only:
                yield f"{state}: {name} is not possible there"
    if "open" not in world.states:
        yield "no state open"
