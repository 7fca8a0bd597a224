"""Where batches come from: encoded recordings, composed dialogues, single utterances. Runs in the training process.

Every example is drawn by a generator of its own, seeded with its number, so a source is where it is by one number
alone: it can be stopped and go on anywhere, and process r of n takes every n-th example.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from config.audio import FRAME_RATE
from model_runtime.lm.delays import ZERO
from model_runtime.text import PAD, TextTokenizer
from model_runtime.training.batch import Batch, BatchSource
from model_runtime.training.encode import EncodedDataset
from model_runtime.training.interleave import TextSettings, interleave
from model_runtime.training.recordings import Word, within
from model_runtime.training.synthetic.composing import boundaries, compose, draw_dialogue
from model_runtime.training.synthetic.dialogue import Dialogue
from model_runtime.training.synthetic.script import World, bare
from model_runtime.training.synthetic.store import Store

Item = TypeVar("Item", bound=Batch)
NOTHING: Final = -1
"""No word, no intent."""


@dataclass(frozen=True)
class HeardBatch(Batch):
    """A batch that tells what the caller says and wants: targets of heads that only training has."""

    heard: Tensor = field(kw_only=True)  # [B, T] int64: the caller's word that ended in the frame before
    meant: Tensor = field(kw_only=True)  # [B, T] int64: what the caller wants, in the frame after its last word

    def to(self, device: torch.device) -> "HeardBatch":
        """The same on a device."""
        moved = super().to(device)
        return HeardBatch(moved.tokens, moved.loss_mask, heard=self.heard.to(device), meant=self.meant.to(device))


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """The shape of batches, and which of them."""

    size: int
    frames: int
    """How long an example is; what is shorter is filled up with ``ZERO``, which counts for nothing."""
    seed: int = 0
    text: TextSettings = field(default_factory=TextSettings)
    rank: int = 0
    processes: int = 1


class Examples(Protocol[Item]):
    """Something that can make its n-th example, a batch of one, again and again."""

    def make(self, random: np.random.Generator) -> Item:
        """The example that the generator's state decides."""

    def join(self, examples: Sequence[Item]) -> Item:
        """One batch of several examples."""


class Batches(Generic[Item]):
    """The source over examples of a kind."""

    def __init__(self, examples: Examples[Item], settings: BatchSettings) -> None:
        self._examples, self._settings = examples, settings
        self._next = 0

    def __iter__(self) -> Iterator[Item]:
        """Batches without end."""
        settings = self._settings
        while True:
            first = (self._next * settings.processes + settings.rank) * settings.size
            numbers = range(first, first + settings.size)
            made = [self._examples.make(np.random.default_rng([settings.seed, n])) for n in numbers]
            self._next += 1
            yield self._examples.join(made)

    def state_dict(self) -> dict[str, Any]:
        """How many batches there were."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after so many."""
        self._next = int(state["next"])


class MixedBatches(Generic[Item]):
    """Batches of several sources, in turns that are drawn."""

    def __init__(self, sources: Sequence[tuple[float, BatchSource[Item]]], seed: int) -> None:
        """``sources`` with their shares."""
        self._sources = [source for _, source in sources]
        self._shares = np.array([share for share, _ in sources])
        self._seed = seed
        self._next = 0

    def __iter__(self) -> Iterator[Item]:
        """Batches without end."""
        running = [iter(source) for source in self._sources]
        while True:
            random = np.random.default_rng([self._seed, self._next])
            self._next += 1
            yield next(running[int(random.choice(len(running), p=self._shares / self._shares.sum()))])

    def state_dict(self) -> dict[str, Any]:
        """Where each of them is."""
        return {"next": self._next, "sources": [source.state_dict() for source in self._sources]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with all of them."""
        self._next = int(state["next"])
        for source, each in zip(self._sources, state["sources"], strict=True):
            source.load_state_dict(each)


class RecordedCrops:
    """Stretches of encoded recordings, each beginning somewhere; long recordings are more likely.

    One that does not begin with its recording has nothing in its first frame, so that what a call begins with is told
    from what goes on in it: a model that greets only learns to greet at the beginning.
    """

    def __init__(
        self, recordings: EncodedDataset, tokenizer: TextTokenizer, settings: BatchSettings, *, begin: float = 0.1
    ) -> None:
        """A part ``begin`` of the crops are the beginnings of their recordings, beside those that are by chance."""
        self._recordings, self._tokenizer, self._settings, self._begin = recordings, tokenizer, settings, begin
        self._ends = np.cumsum(recordings.frames)

    def make(self, random: np.random.Generator) -> Batch:
        """Some crop."""
        frames = self._settings.frames
        number = int(np.searchsorted(self._ends, random.integers(self._ends[-1]), side="right"))
        recording = self._recordings[number]
        first = int(random.integers(max(1, recording.frames - frames + 1)))
        if random.random() < self._begin:
            first = 0
        codes = recording.codes[:, first : first + frames]
        words = within(recording.words, first, frames)
        tokens = interleave(codes, words, self._tokenizer, self._settings.text, _torch(random))
        if first:
            tokens[:, 0] = ZERO
        return _example(tokens, frames)

    def join(self, examples: Sequence[Batch]) -> Batch:
        """One batch of several."""
        return Batch(torch.cat([each.tokens for each in examples]), torch.cat([each.loss_mask for each in examples]))


class ComposedDialogues:
    """Dialogues of a world, each composed of stored utterances when it is asked for."""

    def __init__(
        self, store: Store, world: World, tokenizer: TextTokenizer, settings: BatchSettings, *, emphasis: float = 1.0
    ) -> None:
        """Frames near which the agent begins or ends count ``emphasis`` times as much."""
        self._store, self._world, self._tokenizer, self._settings = store, world, tokenizer, settings
        self._emphasis = emphasis
        self.labels = Labels(world)

    def make(self, random: np.random.Generator) -> HeardBatch:
        """Some dialogue, its beginning if it is too long."""
        frames = self._settings.frames
        late = bool(random.random() < self._world.shares.begin_late)
        dialogue, caller = draw_dialogue(self._store, self._world, random, late=late)
        codes = compose(dialogue, self._store, caller, random)
        tokens = interleave(codes, dialogue.words("agent"), self._tokenizer, self._settings.text, _torch(random))
        if late:  # as in RecordedCrops
            tokens[:, 0] = ZERO
        example = _example(tokens, frames)
        near = _filled(boundaries(dialogue)[:frames].float(), frames, 0)
        mask = example.loss_mask * (1 + (self._emphasis - 1) * near)
        heard, meant = self.labels.of(dialogue, frames)
        return HeardBatch(example.tokens, mask, heard=heard[None], meant=meant[None])

    def join(self, examples: Sequence[HeardBatch]) -> HeardBatch:
        """One batch of several."""
        return _joined(examples)


class Utterances:
    """Single things that callers say, without an agent: for learning to listen first.

    The agent is silent meanwhile: what is the same in every frame is also what attention finds near ones by, which a
    model without it learns much later. No token counts, only what is heard and meant.
    """

    def __init__(self, store: Store, world: World, settings: BatchSettings) -> None:
        self._store, self._settings = store, settings
        self.labels = Labels(world)

    def make(self, random: np.random.Generator) -> HeardBatch:
        """Something said, from some frame on, in its background."""
        frames = self._settings.frames
        caller = self._store.callers[int(random.integers(len(self._store.callers)))]
        names = list(caller.said)
        phrase, clip = (ways := caller.said[names[int(random.integers(len(names)))]])[int(random.integers(len(ways)))]
        first = int(random.integers(max(1, frames - clip.codes.shape[1] + 1)))
        at = (int(random.integers(1 << 16)) + torch.arange(frames)) % caller.background.shape[1]
        user = caller.background[:, at].long()
        there = user[:, first : first + clip.codes.shape[1]]
        there.copy_(clip.codes[:, : there.shape[1]])
        silence = self._store.silence[:, torch.arange(frames) % self._store.silence.shape[1]].long()
        tokens = torch.cat([torch.full((1, frames), PAD), silence, user])
        words = [word.later(first / FRAME_RATE) for word in clip.words]
        heard, meant = self.labels.blank(frames)
        self.labels.mark(heard, meant, words, phrase.intent)
        return HeardBatch(tokens[None], torch.zeros(tokens[None].shape), heard=heard[None], meant=meant[None])

    def join(self, examples: Sequence[HeardBatch]) -> HeardBatch:
        """One batch of several."""
        return _joined(examples)


class Labels:
    """Numbers for a world's words and intents."""

    def __init__(self, world: World) -> None:
        self.words = world.caller_words
        self.intents = list(world.intents)
        self._word = {word: i for i, word in enumerate(self.words)}
        self._intent = {name: i for i, name in enumerate(self.intents)}

    def blank(self, frames: int) -> tuple[Tensor, Tensor]:
        """``heard`` and ``meant``, both ``int64 [frames]``, of silence."""
        return torch.full((frames,), NOTHING), torch.full((frames,), NOTHING)

    def mark(self, heard: Tensor, meant: Tensor, words: Sequence[Word], intent: str) -> None:
        """Enter what was said: each word where the frame after its end is, the intent after the last."""
        for word in words:
            frame = int(word.end * FRAME_RATE) + 1
            if frame < len(heard):
                heard[frame] = self._word.get(bare(word.text), NOTHING)
        frame = int(words[-1].end * FRAME_RATE) + 1
        if frame < len(meant):
            meant[frame] = self._intent.get(intent, NOTHING)

    def of(self, dialogue: Dialogue, frames: int) -> tuple[Tensor, Tensor]:
        """``heard`` and ``meant`` of a dialogue's caller."""
        heard, meant = self.blank(frames)
        for said in dialogue.said:
            if said.speaker == "caller":
                self.mark(heard, meant, said.words(), said.intent)
        return heard, meant


def _example(tokens: Tensor, frames: int) -> Batch:
    """A batch of one, ``[1, K, frames]``; what is absent counts for nothing."""
    whole = _filled(tokens[:, :frames], frames, ZERO)[None]
    return Batch(whole, (whole != ZERO).float())


def _filled(values: Tensor, frames: int, value: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, frames - values.shape[-1]), value=value)


def _joined(examples: Sequence[HeardBatch]) -> HeardBatch:
    return HeardBatch(
        torch.cat([each.tokens for each in examples]),
        torch.cat([each.loss_mask for each in examples]),
        heard=torch.cat([each.heard for each in examples]),
        meant=torch.cat([each.meant for each in examples]),
    )


def _torch(random: np.random.Generator) -> torch.Generator:
    """A generator of torch's that this one decides."""
    return torch.Generator().manual_seed(int(random.integers(2**62)))
