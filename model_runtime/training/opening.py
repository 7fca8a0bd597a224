"""A stage's ``data`` section opened: which sources, in which shape, this process's share of them.

``train`` and ``held_out`` each name a source by its ``kind``, or a ``mix`` of them with a ``share`` each. Runs in the
training process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from config.audio import FRAME_RATE
from model_runtime.checkpoint.files import locate
from model_runtime.text import TextTokenizer
from model_runtime.training.batch import BatchSource
from model_runtime.training.batches import (
    Batches,
    BatchSettings,
    ComposedDialogues,
    MixedBatches,
    RecordedCrops,
    Utterances,
)
from model_runtime.training.distributed import Place
from model_runtime.training.encode import EncodedDataset
from model_runtime.training.interleave import TextSettings
from model_runtime.training.recordings import read_index
from model_runtime.training.sources import AudioCrops, TextCrops, read_text
from model_runtime.training.stages import Stage, StageError, read_fields
from model_runtime.training.synthetic.script import FRONT_DESK, World
from model_runtime.training.synthetic.speech_batches import Labelled, SpeechBatches, speak_sentences
from model_runtime.training.synthetic.store import Store
from model_runtime.training.trainer import Data

Section = TypeVar("Section")


@dataclass(frozen=True)
class TextSection:
    """``text``: a file or folder of text, or tokens in a ``.npy``."""

    path: str
    tokens: int
    batch: int


@dataclass(frozen=True)
class RecordingsSection:
    """``recordings``: a folder that ``denwa train encode`` has written."""

    path: str
    seconds: float
    batch: int
    text: TextSettings = field(default_factory=TextSettings)
    begin: float = 0.1


@dataclass(frozen=True)
class DialoguesSection:
    """``dialogues``: composed of a store of utterances; ``utterances``: single ones."""

    store: str
    seconds: float
    batch: int
    world: str | None = None
    text: TextSettings = field(default_factory=TextSettings)
    emphasis: float = 1.0


@dataclass(frozen=True)
class AudioSection:
    """``audio``: a data set's sound, for the codec."""

    path: str
    seconds: float
    batch: int
    features: str | None = None


@dataclass(frozen=True)
class SpeechSection:
    """``speech``: the sentences of a world, spoken by espeak-ng when training starts, with phones as labels.

    What is held out are other crops of the same sentences.
    """

    agent: int
    """How often the agent says each of its sentences."""
    read: int
    """Sentences of callers in the agent's voice."""
    callers: int
    seconds: float
    batch: int
    world: str | None = None
    processes: int = 1


def open_data(stage: Stage, place: Place) -> Data[Any]:
    """The sources of a stage; raises ``StageError`` and ``DataError``."""
    unknown = sorted(set(stage.data) - {"train", "held_out", "tokenizer"})
    if unknown or "train" not in stage.data:
        raise StageError(f"data: train and perhaps held_out and tokenizer are needed, got {sorted(stage.data)}")
    opening = _Opening(stage, place)
    held_out = stage.data.get("held_out")
    if held_out is None:
        return Data(opening.source(stage.data["train"], "data.train"))
    return Data(
        opening.source(stage.data["train"], "data.train"), lambda: opening.source(held_out, "data.held_out", _HELD_OUT)
    )


_HELD_OUT: Final = 1
"""Added to the seed of what is held out."""


class _Opening:
    """What the sources of one stage share."""

    def __init__(self, stage: Stage, place: Place) -> None:
        self._stage = stage
        self._place = place
        self._kinds: dict[str, Callable[[Mapping[str, Any], str, int], BatchSource[Any]]] = {
            "text": self._text,
            "recordings": self._recordings,
            "dialogues": self._dialogues,
            "utterances": self._utterances,
            "audio": self._audio,
            "speech": self._speech,
        }
        self._spoken: dict[SpeechSection, list[Labelled]] = {}

    def source(self, section: object, where: str, aside: int = 0) -> BatchSource[Any]:
        """The source that a section names."""
        if not isinstance(section, dict):
            raise StageError(f"{where}: a mapping is needed, got {section!r}")
        if "mix" in section:
            parts = [(dict(each), f"{where}.mix.{number}") for number, each in enumerate(section["mix"])]
            shared = [(float(part.pop("share")), self.source(part, place, aside)) for part, place in parts]
            return MixedBatches(shared, self._stage.trainer.seed + aside)
        kind = section.get("kind")
        if kind not in self._kinds:
            raise StageError(f"{where}.kind: one of {', '.join(self._kinds)} or a mix is needed, got {kind!r}")
        return self._kinds[kind]({key: value for key, value in section.items() if key != "kind"}, where, aside)

    def _text(self, keys: Mapping[str, Any], where: str, aside: int) -> BatchSource[Any]:
        section = _section(TextSection, keys, where)
        crops = TextCrops(read_text(Path(section.path), self._tokenizer()), self._streams(), section.tokens)
        return Batches(crops, self._shape(section.batch, section.tokens, aside))

    def _recordings(self, keys: Mapping[str, Any], where: str, aside: int) -> BatchSource[Any]:
        section = _section(RecordingsSection, keys, where)
        shape = self._shape(section.batch, _frames(section.seconds), aside, section.text)
        crops = RecordedCrops(EncodedDataset(Path(section.path)), self._tokenizer(), shape, begin=section.begin)
        return Batches(crops, shape)

    def _dialogues(self, keys: Mapping[str, Any], where: str, aside: int) -> BatchSource[Any]:
        section = _section(DialoguesSection, keys, where)
        shape = self._shape(section.batch, _frames(section.seconds), aside, section.text)
        store, world = Store(Path(section.store)), World.load(Path(section.world or FRONT_DESK))
        return Batches(ComposedDialogues(store, world, self._tokenizer(), shape, emphasis=section.emphasis), shape)

    def _utterances(self, keys: Mapping[str, Any], where: str, aside: int) -> BatchSource[Any]:
        section = _section(DialoguesSection, keys, where)
        shape = self._shape(section.batch, _frames(section.seconds), aside)
        return Batches(
            Utterances(Store(Path(section.store)), World.load(Path(section.world or FRONT_DESK)), shape), shape
        )

    def _audio(self, keys: Mapping[str, Any], where: str, aside: int) -> BatchSource[Any]:
        section = _section(AudioSection, keys, where)
        return AudioCrops(
            read_index(Path(section.path)),
            size=section.batch,
            frames=_frames(section.seconds),
            seed=self._stage.trainer.seed + aside,
            features=None if section.features is None else Path(section.features),
            share=(self._place.rank, self._place.world),
        )

    def _speech(self, keys: Mapping[str, Any], where: str, aside: int) -> BatchSource[Any]:
        section, seed = _section(SpeechSection, keys, where), self._stage.trainer.seed
        if section not in self._spoken:
            world = World.load(Path(section.world or FRONT_DESK))
            self._spoken[section] = speak_sentences(
                world,
                agent=section.agent,
                read=section.read,
                callers=section.callers,
                seed=seed,
                processes=section.processes,
            )
        own = (seed + aside) * self._place.world + self._place.rank
        source = SpeechBatches(self._spoken[section], size=section.batch, frames=_frames(section.seconds), seed=own)
        if len(source.phones) > self._stage.mimi.phones:
            raise StageError(f"mimi.phones: {len(source.phones)} kinds of phones are in the speech of {where}")
        return source

    def _shape(self, size: int, frames: int, aside: int, text: TextSettings | None = None) -> BatchSettings:
        seed, place = self._stage.trainer.seed + aside, self._place
        return BatchSettings(size, frames, seed, text or TextSettings(), place.rank, place.world)

    def _tokenizer(self) -> TextTokenizer:
        """The one that the section names, or the checkpoint's."""
        named, checkpoint = self._stage.data.get("tokenizer"), self._stage.model.checkpoint
        if named is not None:
            return TextTokenizer(Path(str(named)))
        if checkpoint is None:
            raise StageError("data.tokenizer: a sentencepiece model is needed, where there is no checkpoint to have it")
        return TextTokenizer(locate(checkpoint).tokenizer())

    def _streams(self) -> int:
        """Streams of the model that is trained."""
        checkpoint = self._stage.model.checkpoint
        keys = self._stage.model.shape
        return locate(checkpoint).config.lm.streams if checkpoint is not None else 1 + int(keys.get("n_q", 16))


def _section(kind: type[Section], keys: Mapping[str, Any], where: str) -> Section:
    faults: list[str] = []
    section = read_fields(kind, dict(keys), where, faults)
    if section is None:
        raise StageError("; ".join(faults))
    return section


def _frames(seconds: float) -> int:
    return round(seconds * FRAME_RATE)
