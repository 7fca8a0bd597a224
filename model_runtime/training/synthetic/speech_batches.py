"""Speech for training the codec: many voices and the agent's, with the phone of each frame as label. One process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
import torch

from config.audio import FRAME_S, FRAME_SAMPLES
from model_runtime.training.augment import augment
from model_runtime.training.batch import AudioBatch
from model_runtime.training.resample import Audio
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.speech import Speech, agent_speech, begin_anew, phone_labels, speak
from model_runtime.training.synthetic.voices import draw_voice

PAUSE: Final = "_"
_CHUNK: Final = 32
"""Sentences that a process speaks at a time."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sentence, and the phone in the middle of each of its frames."""

    audio: Audio  # [T * 1920]
    phones: tuple[str, ...]


def speak_sentences(
    world: World,
    *,
    agent: int,
    read: int,
    callers: int,
    seed: int,
    processes: int = 1,
    progress: Callable[[int], None] = lambda sentences: None,
) -> list[Labelled]:
    """All that the agent says, ``agent`` times; of callers' sentences ``read`` in its voice, and ``callers`` in others.

    Those are voices that are trained on; every second one is heard over the world's channel, as it will be in a call.
    """
    spoken = [_labelled(each) for each in agent_speech(world).values()] * agent
    count = read + callers
    chunks = [range(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
    make = partial(_sentences, world, seed, read)
    pool = ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else None
    try:
        for each in pool.map(make, chunks) if pool else map(make, chunks):
            spoken += each
            progress(len(spoken))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return spoken


def _sentences(world: World, seed: int, read: int, numbers: range) -> list[Labelled]:
    """Callers' sentences; the first ``read`` of all are in the agent's voice."""
    torch.set_num_threads(1)
    begin_anew()
    made = []
    intents = list(world.intents)
    for number in numbers:
        random = np.random.default_rng([seed, number])
        phrase = world.draw(intents[int(random.integers(len(intents)))], random)
        if number < read:
            made.append(_labelled(speak(phrase.text, world.agent)))
            continue
        said = _labelled(speak(phrase.text, draw_voice("train", random)))
        if number % 2:
            heard = augment(said.audio, np.zeros_like(said.audio), replace(world.channel, echo=0.0), random)
            said = replace(said, audio=heard)
        made.append(said)
    return made


def _labelled(speech: Speech) -> Labelled:
    frames = -(-len(speech.audio) // FRAME_SAMPLES)
    audio = np.zeros(frames * FRAME_SAMPLES, np.float32)
    audio[: len(speech.audio)] = speech.audio
    return Labelled(audio, tuple(phone_labels(speech.phones, frames, FRAME_S)))


class SpeechBatches:
    """Stretches of sentences, one after another with pauses between; where the source is, is a number."""

    def __init__(
        self,
        sentences: Sequence[Labelled],
        *,
        size: int,
        frames: int,
        seed: int,
    ) -> None:
        """Batches of ``size`` times ``frames``."""
        self._sentences, self._size, self._frames, self._seed = sentences, size, frames, seed
        self.phones = sorted({phone for each in sentences for phone in each.phones} | {PAUSE})
        """Which phone each label is."""
        self._number = {phone: i for i, phone in enumerate(self.phones)}
        self._next = 0

    def __iter__(self) -> Iterator[AudioBatch]:
        """Batches without end."""
        while True:
            random = np.random.default_rng([self._seed, self._next])
            self._next += 1
            rows = [self._example(random) for _ in range(self._size)]
            audio = torch.from_numpy(np.stack([audio for audio, _ in rows]))[:, None]
            yield AudioBatch(audio, labels=torch.tensor([labels for _, labels in rows]))

    def state_dict(self) -> dict[str, Any]:
        """How many batches there were."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after so many."""
        self._next = int(state["next"])

    def _example(self, random: np.random.Generator) -> tuple[Audio, list[int]]:
        """``[frames * 1920]`` and a label for each frame; sentences begin anywhere in a frame."""
        samples = self._frames * FRAME_SAMPLES
        audio = np.zeros(samples + FRAME_SAMPLES, np.float32)
        labels: list[str] = []
        while len(labels) <= self._frames:
            sentence = self._sentences[int(random.integers(len(self._sentences)))]
            skipped = int(random.integers(len(sentence.phones))) if not labels else 0
            rest = sentence.audio[skipped * FRAME_SAMPLES :]
            there = audio[len(labels) * FRAME_SAMPLES :][: len(rest)]
            there += rest[: len(there)]
            labels += [*sentence.phones[skipped:], *[PAUSE] * int(random.integers(1, 5))]
        by = int(random.integers(-FRAME_SAMPLES // 4, FRAME_SAMPLES // 4))  # the labels stay right within a quarter
        audio = np.roll(audio, by)[:samples]
        return audio, [self._number[phone] for phone in labels[: self._frames]]
