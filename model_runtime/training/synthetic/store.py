"""Utterances that were encoded once, for dialogues that are composed of them anew each time.

A store is a folder: ``agent.safetensors``, all that the agent ever says, and ``callers-*.safetensors``, each caller one
voice on one line with some way to say each intent. Codes depend on what went before them, so everything is encoded as
it stands in a call: the agent's sentences after silence and once more for each frame they can be cut at, with what
follows; a caller's after each other, over the noise and the line that this caller has all the time.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.mimi.codec import Mimi
from model_runtime.training.augment import augment
from model_runtime.training.encode import encode
from model_runtime.training.recordings import DataError, Word
from model_runtime.training.resample import Audio
from model_runtime.training.synthetic.rendering import cut_short
from model_runtime.training.synthetic.script import BACKCHANNEL, HESITATION, Phrase, Wording, World
from model_runtime.training.synthetic.speech import agent_speech, begin_anew, speak
from model_runtime.training.synthetic.voices import Split, draw_voice

TAIL: Final = 6
"""Frames after the last sound of the agent's that still tell of it."""
_LEAD: Final = 12
"""Frames of silence that the agent's sentences are encoded after."""
_FIRST_CUT, _CUT_EVERY = 6, 2
_GAP_S: Final = (0.35, 0.65)
"""Between a caller's utterances."""
_BACKGROUND_S: Final = 3.0
_BEFORE, _AFTER = 1, 2
"""Frames that belong to a caller's utterance before it begins and after it ends."""
_OFTEN: Final = {"book": 3, "when": 3, "yes": 2, "no": 2, BACKCHANNEL: 2, HESITATION: 1}
"""How many ways a caller has to say something; one of everything else."""
_PER_SHARD: Final = 64


@dataclass(frozen=True, slots=True)
class StoredClip:
    """Something said, as codes."""

    text: str
    words: tuple[Word, ...]
    """In seconds from the first of the codes."""
    codes: Tensor  # int16 [K, F]
    tails: Mapping[int, Tensor]  # int16 [K, TAIL]: what follows if it is cut before a frame


@dataclass(frozen=True, slots=True)
class StoredCaller:
    """One caller."""

    background: Tensor  # int16 [K, F]: the caller says nothing
    said: Mapping[str, Sequence[tuple[Phrase, StoredClip]]]  # by intent


class Store:
    """An open store, all in memory: half a megabyte for each hundred utterances."""

    def __init__(self, folder: Path) -> None:
        """Read a folder; raises ``DataError``."""
        try:
            self.silence, self.agent = _read_agent(folder / "agent.safetensors")
            self.callers = [
                each for path in sorted(folder.glob("callers-*.safetensors")) for each in _read_callers(path)
            ]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: no utterances are stored here: {error!r}") from error
        if not self.callers:
            raise DataError(f"{folder}: there are no callers")


class StoredCast:
    """The agent and one caller out of a store."""

    aligned = True

    def __init__(self, store: Store, caller: StoredCaller) -> None:
        self._store, self._caller = store, caller

    def agent(self, text: str) -> StoredClip:
        """The agent saying a text."""
        return self._store.agent[text]

    def caller(self, intent: str, random: np.random.Generator) -> tuple[Phrase, StoredClip] | None:
        """The caller wanting something."""
        ways = self._caller.said.get(intent)
        return ways[int(random.integers(len(ways)))] if ways else None

    def cuts(self, clip: Any) -> Sequence[int]:
        """Where there is a tail for it."""
        return list(clip.tails)


def build_store(
    world: World,
    mimi: Mimi,
    out: Path,
    *,
    callers: int,
    seed: int,
    split: Split = "train",
    wording: Wording = "seen",
    processes: int = 1,
    batch: int = 16,
    progress: Callable[[int], None] = lambda callers: None,
) -> None:
    """Encode all that the agent says, and so many callers, into a folder; the same ones for the same seed.

    ``progress`` is told how many callers are done. Raises ``SpeechError`` and ``OSError``.
    """
    out.mkdir(parents=True, exist_ok=True)
    _write_agent(world, mimi, out / "agent.safetensors", batch)
    make = partial(_caller, world, seed, split, wording)
    pool = ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else None
    try:
        for shard, first in enumerate(range(0, callers, _PER_SHARD)):
            numbers = range(first, min(first + _PER_SHARD, callers))
            spoken = list(pool.map(make, numbers, chunksize=4) if pool else map(make, numbers))
            _write_callers(mimi, spoken, out / f"callers-{shard:05d}.safetensors", batch)
            progress(numbers[-1] + 1)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


_Spoken = tuple[Audio, list[dict[str, Any]]]


def _caller(world: World, seed: int, split: Split, wording: Wording, number: int) -> _Spoken:
    """All that a caller says, as one sound ``[T * 1920]``, and what stands where in it."""
    torch.set_num_threads(1)
    begin_anew()
    random = np.random.default_rng([seed, number])
    voice = draw_voice(split, random)
    names = [*world.intents, BACKCHANNEL, HESITATION]
    wanted = [name for name in names for _ in range(_OFTEN.get(name, 1))]
    parts: list[Audio] = [np.zeros(SAMPLE_RATE, np.float32)]
    at = SAMPLE_RATE
    about: list[dict[str, Any]] = []
    for i in random.permutation(len(wanted)):
        name = wanted[int(i)]
        phrase = world.draw(name, random, wording if name in world.intents else "seen")
        speech = speak(phrase.text, voice)
        gap = np.zeros(round(random.uniform(*_GAP_S) * SAMPLE_RATE), np.float32)
        words = [word.later(at / SAMPLE_RATE) for word in speech.words]
        first, last = int(words[0].start / FRAME_S) - _BEFORE, ceil(words[-1].end / FRAME_S) + _AFTER
        about.append(
            {
                "intent": name,
                "text": phrase.text,
                "slots": dict(phrase.slots),
                "words": [word.later(-first * FRAME_S) for word in words],
                "span": (first, last),
            }
        )
        parts += [speech.audio, gap]
        at += len(speech.audio) + len(gap)
    frames = ceil((at / SAMPLE_RATE + _BACKGROUND_S) / FRAME_S)
    audio = np.zeros(frames * FRAME_SAMPLES, np.float32)
    audio[:at] = np.concatenate(parts)
    heard = augment(audio, np.zeros_like(audio), replace(world.channel, echo=0.0), random)
    about.append({"background": (ceil(at / FRAME_SAMPLES) + _AFTER, frames)})
    return heard, about


def _write_callers(mimi: Mimi, spoken: Sequence[_Spoken], path: Path, batch: int) -> None:
    order = sorted(range(len(spoken)), key=lambda i: len(spoken[i][0]))
    tensors: dict[str, Tensor] = {}
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        for i, codes in zip(chosen, encode(mimi, [spoken[i][0] for i in chosen]), strict=True):
            tensors[str(i)] = codes
    save_file(tensors, path, metadata={"callers": json.dumps([about for _, about in spoken])})


def _read_callers(path: Path) -> Iterator[StoredCaller]:
    with safe_open(path, "pt") as file:
        for i, (*said, last) in enumerate(json.loads(file.metadata()["callers"])):
            codes = file.get_tensor(str(i))
            ways: dict[str, list[tuple[Phrase, StoredClip]]] = {}
            for each in said:
                words = tuple(Word(*word) for word in each["words"])
                clip = StoredClip(each["text"], words, codes[:, slice(*each["span"])], {})
                phrase = Phrase(each["intent"], each["text"], each["slots"])
                ways.setdefault(each["intent"], []).append((phrase, clip))
            yield StoredCaller(codes[:, slice(*last["background"])], ways)


def _write_agent(world: World, mimi: Mimi, path: Path, batch: int) -> None:
    """Silence, every sentence whole, and what follows each of its cuts."""
    lead = np.zeros(_LEAD * FRAME_SAMPLES, np.float32)
    jobs: list[tuple[str, Audio]] = [("silence", np.zeros(150 * FRAME_SAMPLES, np.float32))]
    about: dict[str, Any] = {}
    for number, (text, speech) in enumerate(agent_speech(world).items()):
        frames = ceil(speech.end / FRAME_S) + TAIL
        about[str(number)] = {"text": text, "words": speech.words}
        jobs.append((str(number), _fitted(lead, speech.audio, _LEAD + frames)))
        for cut in range(_FIRST_CUT, frames - TAIL, _CUT_EVERY):
            short = cut_short(speech.audio, cut * FRAME_SAMPLES)
            jobs.append((f"{number}/{cut}", _fitted(lead, short, _LEAD + cut + TAIL)))
    jobs.sort(key=lambda job: len(job[1]))
    tensors: dict[str, Tensor] = {}
    waiting = iter(jobs)
    while chosen := list(islice(waiting, batch)):
        for (name, _), codes in zip(chosen, encode(mimi, [audio for _, audio in chosen]), strict=True):
            tensors[name] = codes[:, -TAIL:].clone() if "/" in name else codes[:, _LEAD:].clone()
    save_file(tensors, path, metadata={"agent": json.dumps(about)})


def _fitted(lead: Audio, audio: Audio, frames: int) -> Audio:
    """``lead`` and ``audio`` in so many frames."""
    row = np.zeros(frames * FRAME_SAMPLES, np.float32)
    joined = np.concatenate([lead, audio])[: len(row)]
    row[: len(joined)] = joined
    return row


def _read_agent(path: Path) -> tuple[Tensor, dict[str, StoredClip]]:
    with safe_open(path, "pt") as file:
        tails: dict[str, dict[int, Tensor]] = {}
        for name in file.keys():  # noqa: SIM118 (not a dict)
            if "/" in name:
                number, cut = name.split("/")
                tails.setdefault(number, {})[int(cut)] = file.get_tensor(name)
        clips = {
            each["text"]: StoredClip(
                each["text"],
                tuple(Word(*word) for word in each["words"]),
                file.get_tensor(number),
                dict(sorted(tails.get(number, {}).items())),
            )
            for number, each in json.loads(file.metadata()["agent"]).items()
        }
        return file.get_tensor("silence"), clips
