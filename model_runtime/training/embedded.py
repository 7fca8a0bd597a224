"""`denwa train embedded`: a small Moshi for a small world, from nothing to a checkpoint that answers calls.

A chain of things made one from another (chain.py), in this order: codec, store and held (encoded utterances),
tokenizer, hearing, listening, recorded (dialogues encoded as sound), dialogue, voice (the codec's decoder), checkpoint.
It can be stopped anywhere and goes on when it is called again. Runs in the training process, and in as many more as
speech is made with.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from model_runtime.checkpoint import load_language_model, load_mimi
from model_runtime.checkpoint.files import locate
from model_runtime.text import TextTokenizer
from model_runtime.training.batches import Labels
from model_runtime.training.card import write_card
from model_runtime.training.chain import Made, digest_of, make
from model_runtime.training.closed_loop import score
from model_runtime.training.encode import encode_dataset
from model_runtime.training.export import (
    config_keys,
    export_language_model,
    export_mimi,
    export_tokenizer,
    language_model_keys,
)
from model_runtime.training.listening import ListeningSettings
from model_runtime.training.stages import Stage, read_stage
from model_runtime.training.synthetic.dataset import synthesize
from model_runtime.training.synthetic.script import FRONT_DESK, Wording, World
from model_runtime.training.synthetic.store import Store, build_store
from model_runtime.training.synthetic.voices import Split
from model_runtime.training.train_command import train
from model_runtime.training.vocabulary import MARKS, train_words

_LOG: Final = logging.getLogger(__name__)
PLACE: Final = "runs/embedded"
"""The folder that the stages' files name."""
_HELD_SEED: Final = 1000
"""Added to the seed of voices and phrasings that are kept back."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything is done. The same recipe gives the same model on the same kind of machine."""

    codec_steps: int
    voice_steps: int
    callers: int
    """Of the store that is trained on; each says every intent."""
    hearing_steps: int
    listening_steps: int
    recorded_hours: float
    """Of dialogues that are encoded as sound."""
    dialogue_steps: int
    held_callers: int = 32
    """Of each store that is kept back."""
    asked: int = 240
    """Questions that the model is scored by, for each store that is kept back."""
    seed: int = 0

    @classmethod
    def within(cls, minutes: float, *, codec: bool = True, seed: int = 0) -> "Recipe":
        """What one CPU core does in about so many minutes, the same on any machine; ``codec``: it is trained too."""
        shares = {name: share for name, share in _SHARES.items() if codec or name != "codec_steps"}
        seconds = {name: 60 * minutes * share / sum(shares.values()) for name, share in shares.items()}
        amounts = {name: spent / _SECONDS[name] for name, spent in seconds.items()}
        counts: dict[str, Any] = {
            name: max(1, round(each)) for name, each in amounts.items() if name != "recorded_hours"
        }
        counts.setdefault("codec_steps", 0)
        return cls(**counts, recorded_hours=amounts["recorded_hours"], seed=seed)


_SHARES: Final = {
    "codec_steps": 0.3,
    "voice_steps": 0.1,
    "callers": 0.15,
    "hearing_steps": 0.03,
    "listening_steps": 0.12,
    "recorded_hours": 0.02,
    "dialogue_steps": 0.28,
}
_SECONDS: Final = {
    "codec_steps": 1.1,
    "voice_steps": 0.7,
    "callers": 2.7,
    "hearing_steps": 0.29,
    "listening_steps": 1.1,
    "recorded_hours": 165.0,
    "dialogue_steps": 1.8,
}
"""What one of each took on one of two busy cores (docs/embedded-model.md); the voice's step is estimated."""


@dataclass(frozen=True, slots=True)
class EmbeddedStages:
    """The stages of the chain, as their files have them; tests put smaller ones in."""

    codec: Stage
    voice: Stage
    hearing: Stage
    listening: Stage
    dialogue: Stage

    @classmethod
    def read(cls) -> "EmbeddedStages":
        """Those that come with Denwa."""
        names = ("mimi_small", "mimi_small_decoder", "embedded_hearing", "embedded_listening", "embedded_dialogue")
        return cls(*(read_stage(Path(name)) for name in names))


def train_embedded(
    out: Path,
    recipe: Recipe,
    *,
    codec: Path | None = None,
    world: Path = FRONT_DESK,
    processes: int = 1,
    device: str = "cpu",
    stages: EmbeddedStages | None = None,
) -> Path:
    """Make all of the chain that is not there yet, and return the folder of the checkpoint.

    ``codec`` is one that is trained already. Raises ``ChainError`` where ``out`` has something that was made with other
    settings, and what the parts raise.
    """
    return _Chain(out, recipe, world, processes, device, stages or EmbeddedStages.read()).checkpoint(codec)


class _Chain:
    """One folder, and what is made in it."""

    def __init__(
        self, out: Path, recipe: Recipe, world: Path, processes: int, device: str, stages: EmbeddedStages
    ) -> None:
        self._out, self._recipe, self._processes, self._device, self._stages = out, recipe, processes, device, stages
        self._world_file, self._world = world, World.load(world)

    def checkpoint(self, given: Path | None) -> Path:
        recipe, world = self._recipe, {"world": digest_of(self._world_file)}
        codec = self._codec() if given is None else self._given(given)
        store = self._store("store", codec, recipe.callers, "train", "seen", recipe.seed)
        aside = recipe.seed + _HELD_SEED
        held = [
            self._store("held", codec, recipe.held_callers, "held", "seen", aside),
            self._store("unseen", codec, recipe.held_callers, "held", "unseen", aside),
        ]
        words = make(self._out / "tokenizer", {}, world, lambda: train_words(self._world.agent_words, self._tokenizer))
        from_stores = {"codec": codec.digest, "store": store.digest, "held": held[0].digest, **world}
        hearing = self._trained("hearing", self._hearing(codec), from_stores)
        stage = self._listens(self._stages.listening, self._recipe.listening_steps)
        listening = self._trained("listening", stage, {**from_stores, "before": hearing.digest})
        recorded = self._recorded(codec)
        needed = {**from_stores, "tokenizer": words.digest, "recorded": recorded.digest, "before": listening.digest}
        dialogue = self._trained("dialogue", self._listens(self._stages.dialogue, self._recipe.dialogue_steps), needed)
        return self._finished(self._voice(codec), dialogue, held)

    @property
    def _tokenizer(self) -> Path:
        return self._out / "tokenizer" / "tokenizer.model"

    def _codec(self) -> Made:
        stage = self._stages.codec
        trainer = replace(stage.trainer, steps=self._recipe.codec_steps, seed=self._recipe.seed)
        return self._trained("codec", replace(stage, trainer=trainer), {"world": digest_of(self._world_file)})

    def _voice(self, codec: Made) -> Made:
        """The codec with a decoder that was trained further; its codes are the same."""
        stage = self._stages.voice
        trainer = replace(stage.trainer, steps=self._recipe.voice_steps, seed=self._recipe.seed)
        needed = {"codec": codec.digest, "world": digest_of(self._world_file)}
        return self._trained("voice", replace(stage, trainer=trainer), needed)

    def _given(self, codec: Path) -> Made:
        """A copy of a codec that was trained elsewhere."""
        folder = self._out / "codec"
        needed = {"codec": digest_of(locate(codec).codec())}
        return make(folder, {}, needed, lambda: export_mimi(load_mimi(codec), folder / "export"))

    def _store(self, name: str, codec: Made, callers: int, split: Split, wording: Wording, seed: int) -> Made:
        folder = self._out / name
        settings = {"callers": callers, "voices": split, "wording": wording, "seed": seed}

        def build() -> None:
            _LOG.info("%s: %d callers speak", folder, callers)
            build_store(
                self._world,
                load_mimi(codec.folder / "export", self._device),
                folder,
                callers=callers,
                seed=seed,
                split=split,
                wording=wording,
                processes=self._processes,
            )

        return make(folder, settings, {"codec": codec.digest, "world": digest_of(self._world_file)}, build)

    def _hearing(self, codec: Made) -> Stage:
        """The first stage, with the shape of the world's tokenizer and the codec."""
        stage = self._stages.hearing
        shape = {**stage.model.shape, "text_card": MARKS + len(self._world.agent_words)}
        shape["card"] = locate(codec.folder / "export").codec_config().bins
        stage = replace(stage, model=replace(stage.model, shape=shape))
        return self._listens(stage, self._recipe.hearing_steps)

    def _listens(self, stage: Stage, steps: int) -> Stage:
        """The stage with the world's labels and the recipe's length."""
        assert stage.listening is not None
        labels = Labels(self._world)
        listening: ListeningSettings = replace(stage.listening, words=len(labels.words), intents=len(labels.intents))
        trainer = replace(stage.trainer, steps=steps, seed=self._recipe.seed)
        return replace(stage, listening=listening, trainer=trainer)

    def _recorded(self, codec: Made) -> Made:
        """Dialogues as sound, then as codes; the sound is not kept."""
        folder, seed = self._out / "recorded", self._recipe.seed
        settings = {"hours": self._recipe.recorded_hours, "seed": seed}

        def build() -> None:
            sound = folder / "sound"
            _LOG.info("%s: %.2f hours of dialogues are spoken", folder, self._recipe.recorded_hours)
            synthesize(self._world_file, sound, hours=self._recipe.recorded_hours, seed=seed, processes=self._processes)
            encode_dataset(sound, load_mimi(codec.folder / "export", self._device), folder)

        return make(folder, settings, {"codec": codec.digest, "world": digest_of(self._world_file)}, build)

    def _trained(self, name: str, stage: Stage, needed: Mapping[str, str]) -> Made:
        """A stage trained to its end; what it reads lies in this chain's folder."""
        folder = self._out / name

        def build() -> None:
            _LOG.info("%s: %d steps of %s", folder, stage.trainer.steps, stage.name)
            train(self._placed(stage), folder, resume=True, device=self._device)

        return make(folder, asdict(stage), needed, build)

    def _finished(self, voice: Made, dialogue: Made, held: list[Made]) -> Path:
        """One folder with all that the runtime loads, and a card that tells how good it is."""
        folder = self._out / "checkpoint"
        settings = {"asked": self._recipe.asked, "seed": self._recipe.seed}

        def build() -> None:
            export = dialogue.folder / "export"
            lm = load_language_model(export, "cpu", torch.float32)
            keys = {key: value for key, value in config_keys(locate(export)).items() if not key.endswith("_name")}
            export_language_model(lm, folder, {**keys, **language_model_keys(lm.config)}, torch.float16)
            export_mimi(load_mimi(voice.folder / "export"), folder)
            export_tokenizer(self._tokenizer, folder)
            lm = load_language_model(folder, self._device, torch.float32)  # with its numbers as they are kept
            tokenizer = TextTokenizer(self._tokenizer)
            scores = {
                made.folder.name: score(
                    lm, Store(made.folder), self._world, tokenizer, dialogues=self._recipe.asked, seed=self._recipe.seed
                )
                for made in held
            }
            (folder / "scores.json").write_text(
                json.dumps({name: each.about() for name, each in scores.items()}, indent=2) + "\n"
            )
            write_card(folder, self._out, self._recipe, self._world, scores)

        needed = {
            "codec": voice.digest,
            "dialogue": dialogue.digest,
            **{each.folder.name: each.digest for each in held},
        }
        return make(folder, settings, needed, build).folder

    def _placed(self, stage: Stage) -> Stage:
        """The stage with this folder in place of the one that its file names, on this world."""
        model = replace(
            stage.model,
            checkpoint=self._moved(stage.model.checkpoint),
            user_embeddings_from=self._moved(stage.model.user_embeddings_from),
        )
        listening = stage.listening and replace(stage.listening, begin=self._moved(stage.listening.begin))
        return replace(stage, model=model, listening=listening, data=self._moved(dict(stage.data)))

    def _moved(self, value: Any) -> Any:
        """A value of a stage's file, however deep it is."""
        if isinstance(value, str):
            return str(self._out / value.removeprefix(f"{PLACE}/")) if value.startswith(f"{PLACE}/") else value
        if isinstance(value, list):
            return [self._moved(each) for each in value]
        if not isinstance(value, dict):
            return value
        moved = {name: self._moved(each) for name, each in value.items()}
        if moved.get("kind") in ("dialogues", "utterances", "speech"):
            moved["world"] = str(self._world_file)
        if moved.get("kind") == "speech":
            moved["processes"] = self._processes
        return moved
