"""Examples that need no dialogue: crops of plain text, and of recordings for the codec.

Run in the training process.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from model_runtime.lm.delays import ZERO
from model_runtime.text import TextTokenizer
from model_runtime.training.batch import AudioBatch, Batch
from model_runtime.training.recordings import DataError, Recording

_BOS: Final = 1


class TextCrops:
    """Crops of a text, whose audio streams are empty: Helium's pre-training, and text-only steps."""

    def __init__(self, text: npt.NDArray[np.int32], streams: int, length: int) -> None:
        """Crops of ``length`` of the tokens ``text [N]``; raises ``DataError`` where there are fewer."""
        if len(text) < length:
            raise DataError(f"the text has {len(text)} tokens, a crop needs {length}")
        self._text, self._streams, self._length = text, streams, length

    def make(self, random: np.random.Generator) -> Batch:
        """Some crop."""
        start = int(random.integers(len(self._text) - self._length + 1))
        tokens = torch.full((1, self._streams, self._length), ZERO)
        tokens[0, 0] = torch.from_numpy(self._text[start : start + self._length].astype(np.int64))
        return Batch(tokens, (tokens != ZERO).float())

    def join(self, examples: Sequence[Batch]) -> Batch:
        """One batch of several."""
        return Batch(torch.cat([each.tokens for each in examples]), torch.cat([each.loss_mask for each in examples]))


def read_text(path: Path, tokenizer: TextTokenizer) -> npt.NDArray[np.int32]:
    """The tokens ``[N]`` of a ``.npy`` (mapped), ``.txt`` or ``.jsonl`` (key ``text``) file, or all of a folder.

    Every document begins with BOS. Raises ``DataError``.
    """
    try:
        if path.suffix == ".npy":
            mapped: npt.NDArray[np.int32] = np.load(path, mmap_mode="r")
            return mapped
        suffixes = (".txt", ".jsonl")
        files = sorted(each for each in path.rglob("*") if each.suffix in suffixes) if path.is_dir() else [path]
        tokens: list[int] = []
        for file in files:
            content = file.read_text(encoding="utf-8")
            jsonl = file.suffix == ".jsonl"
            for document in [json.loads(line)["text"] for line in content.splitlines()] if jsonl else [content]:
                tokens += [_BOS, *tokenizer.encode(document)]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no text can be read here: {error!r}") from error
    return np.array(tokens, dtype=np.int32)


class AudioCrops:
    """Crops of either channel of recordings; where the source is, is a number.

    ``features`` is a folder with a file STEM.safetensors per recording: ``features [2, frames, D]`` at 12.5 Hz.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        size: int,
        frames: int,
        seed: int,
        features: Path | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Batches of ``size`` times ``frames``; process ``share[0]`` of ``share[1]`` has its own."""
        self._recordings = [each for each in recordings if each.frames >= frames]
        if not self._recordings:
            raise DataError(f"none of the {len(recordings)} recordings has {frames} frames")
        self._ends = np.cumsum([each.frames for each in self._recordings])
        self._size, self._frames, self._seed, self._features, self._share = size, frames, seed, features, share
        self._next = 0

    def __iter__(self) -> Iterator[AudioBatch]:
        """Batches without end."""
        rank, processes = self._share
        while True:
            random = np.random.default_rng([self._seed, self._next * processes + rank])
            self._next += 1
            rows = [self._example(random) for _ in range(self._size)]
            features = [each for _, each in rows if each is not None]
            yield AudioBatch(
                torch.stack([audio for audio, _ in rows]), features=torch.stack(features) if features else None
            )

    def state_dict(self) -> dict[str, Any]:
        """How many batches there were."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after so many."""
        self._next = int(state["next"])

    def _example(self, random: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """Audio ``[1, frames * 1920]`` and features ``[frames, D]``."""
        number = int(np.searchsorted(self._ends, random.integers(self._ends[-1]), side="right"))
        recording = self._recordings[number]
        first, channel = int(random.integers(recording.frames - self._frames + 1)), int(random.integers(2))
        audio = torch.from_numpy(recording.audio(first, self._frames)[channel][None].copy())
        if self._features is None:
            return audio, None
        path = self._features / f"{recording.path.stem}.safetensors"
        try:
            with safe_open(path, "pt") as file:
                return audio, file.get_slice("features")[channel, first : first + self._frames].float()
        except OSError as error:
            raise DataError(f"{path}: the features of {recording.path} are missing: {error}") from error
