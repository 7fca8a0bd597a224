"""How a trained language model answers callers that it has never heard: one question each, straight on codes.

The caller goes by a script: it is silent while it is greeted, asks something, and listens. The model is stepped as the
runtime steps it, greedily. No barge-in, no echo, no sound: calls are judged by `denwa eval`. Runs in the training
process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Final

import numpy as np
import torch
from torch import Tensor

from config.audio import FRAME_RATE, FRAME_S
from model_runtime.lm.language_model import LanguageModel
from model_runtime.text import TextTokenizer
from model_runtime.training.samples import converse_with_all
from model_runtime.training.synthetic.script import World, fill_slots, once
from model_runtime.training.synthetic.store import Store

_GAP: Final = (6, 20)
"""Frames between the greeting's end and the question."""
_ANSWER: Final = 90
"""Frames that the model is listened to after the question."""
_LATEST: Final = 30
"""Frames after the question in which an answer must have begun."""
_TELLING: Final = 3
"""Words that tell an answer from another."""


@dataclass(frozen=True)
class Asked:
    """A caller's part of one dialogue, and what is expected."""

    user: Tensor  # [K, T] int64
    intent: str
    begins: int
    """The frame that the question begins in."""
    ends: int
    """The frame after its last word."""
    expected: str


@dataclass(frozen=True)
class Scores:
    """Parts of all dialogues; ``by_intent`` of each intent's."""

    dialogues: int
    greeting: float
    """Greeted in the right words."""
    intent: float
    """Answered beginning with the right words, repeated ones counted once."""
    exact: float
    """Answered in exactly the right words and no others."""
    early: float
    """Answered before the caller had finished."""
    silent: float
    """Did not answer."""
    gap_s: float
    """Median time from the end of the question to the first word of the answer."""
    by_intent: Mapping[str, float]

    def about(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)


def ask(store: Store, world: World, random: np.random.Generator) -> Asked:
    """Some caller asking something that can be asked first."""
    caller = store.callers[int(random.integers(len(store.callers)))]
    names = [name for name in world.possible("open") if name in caller.said]
    intent = names[int(random.integers(len(names)))]
    ways = caller.said[intent]
    phrase, clip = ways[int(random.integers(len(ways)))]
    greeted = world.timing.greeting_frame + ceil(store.agent[world.greeting].words[-1].end * FRAME_RATE)
    begins = greeted + int(random.integers(*_GAP))
    frames = begins + clip.codes.shape[1] + _ANSWER
    at = (int(random.integers(caller.background.shape[1])) + torch.arange(frames)) % caller.background.shape[1]
    user = caller.background[:, at].long()
    user[:, begins : begins + clip.codes.shape[1]] = clip.codes
    reply = world.reply(intent, "open", phrase.slots)
    expected = world.greeting if reply.again else fill_slots(reply.say, phrase.slots)
    onset = begins + int(clip.words[0].start * FRAME_RATE)
    return Asked(user, intent, onset, begins + ceil(clip.words[-1].end * FRAME_RATE - 1e-6), expected)


def score(
    lm: LanguageModel,
    store: Store,
    world: World,
    tokenizer: TextTokenizer,
    *,
    dialogues: int,
    seed: int,
    batch: int = 32,
) -> Scores:
    """Hold so many dialogues with the callers of a store."""
    random = np.random.default_rng(seed)
    asked = sorted((ask(store, world, random) for _ in range(dialogues)), key=lambda each: each.user.shape[1])
    texts: list[Tensor] = []
    for first in range(0, dialogues, batch):
        some = asked[first : first + batch]
        longest = max(each.user.shape[1] for each in some)
        # Frame 0 is never heard; callers that are through stay with their last codes.
        users = [
            torch.nn.functional.pad(each.user.float(), (1, longest - each.user.shape[1]), "replicate") for each in some
        ]
        texts += converse_with_all(lm, torch.stack(users).long())[:, 0].cpu().unbind(0)
    return _judge(asked, [_words(text, tokenizer) for text in texts], world)


def _words(text: Tensor, tokenizer: TextTokenizer) -> list[tuple[int, str]]:
    """The words of a text stream ``[T]`` and the frames that they begin in."""
    words: list[tuple[int, str]] = []
    for frame, token in enumerate(text.tolist()):
        piece = tokenizer.piece(token)
        if piece.startswith(" ") or (piece and not words):
            words.append((frame, piece.strip()))
        elif piece:
            words[-1] = (words[-1][0], words[-1][1] + piece)
    return words


def _judge(asked: Sequence[Asked], said: Sequence[list[tuple[int, str]]], world: World) -> Scores:
    counts = dict.fromkeys(("greeting", "intent", "exact", "early", "silent"), 0)
    right: dict[str, list[bool]] = {}
    gaps = []
    for each, words in zip(asked, said, strict=True):
        greeting = [word for frame, word in words if frame < each.begins]
        answer = [(frame, word) for frame, word in words if frame >= each.begins]
        wanted = each.expected.split()
        told = once(word for _, word in answer)[:_TELLING] == once(wanted)[:_TELLING]
        counts["greeting"] += greeting == world.greeting.split()
        counts["intent"] += told
        counts["exact"] += [word for _, word in answer] == wanted
        counts["early"] += bool(answer) and answer[0][0] < each.ends
        counts["silent"] += not answer or answer[0][0] > each.ends + _LATEST
        right.setdefault(each.intent, []).append(told)
        if answer:
            gaps.append((answer[0][0] - each.ends) * FRAME_S)
    number = len(asked)
    return Scores(
        number,
        **{name: count / number for name, count in counts.items()},
        gap_s=float(np.median(gaps)) if gaps else float("nan"),
        by_intent={name: float(np.mean(each)) for name, each in sorted(right.items())},
    )
