"""`denwa train synthesize`: dialogues of a world as a data set of recordings. Uses as many processes as it is given."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import chain, count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from model_runtime.training.recordings import Recording, write_index, write_wav
from model_runtime.training.resample import Audio
from model_runtime.training.synthetic.dialogue import Dialogue, plan_dialogue
from model_runtime.training.synthetic.rendering import SpokenCast, about, render
from model_runtime.training.synthetic.script import Wording, World
from model_runtime.training.synthetic.speech import Speech, agent_speech, begin_anew
from model_runtime.training.synthetic.voices import Split, draw_voice

_CHUNK = 16
"""Dialogues that a process makes at a time."""


def synthesize(
    world: Path,
    out: Path,
    *,
    hours: float,
    seed: int,
    split: Split = "train",
    wording: Wording = "seen",
    processes: int = 1,
    progress: Callable[[float], None] = lambda hours: None,
) -> list[Recording]:
    """Make dialogues of so many hours in all, WAV and JSON files and their index, the same ones for the same seed.

    ``split`` are the callers' voices, ``wording`` their phrasings; ``progress`` is told the hours that are done.
    Raises ``WorldError``, ``SpeechError`` and ``OSError``.
    """
    World.load(world)  # its faults are told before processes start
    out.mkdir(parents=True, exist_ok=True)
    make = partial(_make, world, out, seed, split, wording)
    recordings: list[Recording] = []
    done = 0.0
    with _Workers(processes) as workers:
        for recording in workers.map(make):
            recordings.append(recording)
            done += recording.duration / 3600
            progress(done)
            if done >= hours:
                break
    write_index(out, recordings)
    kept = {each.path for each in recordings}
    for path in out.glob("dialogue-*.wav"):  # what was made beyond the end, or by a run before this one
        if path not in kept:
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)
    return recordings


def make_dialogue(
    world: World, agent: Mapping[str, Speech], seed: int, index: int, split: Split, wording: Wording
) -> tuple[Dialogue, Audio]:
    """The dialogue of a seed and an index, and its sound ``float32 [2, frames * 1920]``; the same in any process."""
    begin_anew()
    random = np.random.default_rng([seed, index])
    dialogue = plan_dialogue(world, SpokenCast(world, agent, draw_voice(split, random), wording), random)
    return dialogue, render(dialogue, world, random)


class _Workers:
    """Processes, or none, that make recordings in the order of their indices."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else None

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, make: Callable[[range], list[Recording]]) -> Iterator[Recording]:
        """Recordings without end."""
        chunks = (range(first, first + _CHUNK) for first in count(0, _CHUNK))
        if self._pool is None:
            return chain.from_iterable(make(range(i, i + 1)) for i in count())
        return chain.from_iterable(self._ahead(make, chunks))

    def _ahead(self, make: Callable[[range], list[Recording]], chunks: Iterator[range]) -> Iterator[list[Recording]]:
        """Results in order, while two chunks for each process are on their way."""
        assert self._pool is not None
        due = [self._pool.submit(make, next(chunks)) for _ in range(2 * self._processes)]
        while True:
            yield due.pop(0).result()
            due.append(self._pool.submit(make, next(chunks)))


@cache
def _load(path: Path) -> tuple[World, dict[str, Speech]]:
    world = World.load(path)
    return world, agent_speech(world)


def _make(world: Path, out: Path, seed: int, split: Split, wording: Wording, indices: range) -> list[Recording]:
    torch.set_num_threads(1)
    recordings = []
    for index in indices:
        dialogue, audio = make_dialogue(*_load(world), seed, index, split, wording)
        path = out / f"dialogue-{index:06d}.wav"
        write_wav(path, audio)
        path.with_suffix(".json").write_text(json.dumps(about(dialogue), ensure_ascii=False))
        recordings.append(Recording(path, audio.shape[1] / 24_000))
    return recordings
