"""`denwa train encode`: a data set's sound as Mimi's codes, kept in shards, so that training never runs the codec."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model_runtime.mimi.codec import Mimi
from model_runtime.training.augment import Augmentation, augment
from model_runtime.training.recordings import DataError, Recording, Word, read_index
from model_runtime.training.resample import Audio

INDEX: Final = "codes.json"
_CHUNK: Final = 50
"""Frames that are encoded at a time on a GPU."""
_AT_ONCE: Final = 200
"""Frames of all rows together on a CPU: what fits its caches is encoded twice as fast."""
_PER_SHARD: Final = 64


@torch.inference_mode()
def encode(mimi: Mimi, rows: Sequence[Audio]) -> list[Tensor]:
    """Codes ``int16 [K, T]`` of each of ``rows [T * 1920]``, as if each were encoded alone and at once.

    They are streamed in chunks, so that memory does not grow with their length.
    """
    device = next(mimi.parameters()).device
    frames = [len(row) // mimi.frame_samples for row in rows]
    longest = max(frames)
    audio = torch.zeros(len(rows), 1, longest * mimi.frame_samples)
    for into, row, count in zip(audio, rows, frames, strict=True):
        into[0, : count * mimi.frame_samples] = torch.from_numpy(row[: count * mimi.frame_samples])
    chunk = max(1, _AT_ONCE // len(rows)) if device.type == "cpu" else _CHUNK
    state = mimi.new_encoder_state(len(rows), ring=mimi.config.context + 2 * chunk - 1)
    everyone = torch.ones(len(rows), dtype=torch.bool, device=device)
    chunks = [
        mimi.encode_frames(part.to(device), state, everyone).short().cpu()
        for part in torch.split(audio, chunk * mimi.frame_samples, dim=-1)
    ]
    codes = torch.cat(chunks, dim=-1)
    return [each[:, :count].clone() for each, count in zip(codes, frames, strict=True)]


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How a data set is encoded."""

    batch: int = 16
    """Channels at a time."""
    versions: int = 1
    """How often; the versions after the first have the caller's channel augmented, each otherwise."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0


def encode_dataset(
    dataset: Path,
    mimi: Mimi,
    out: Path,
    settings: EncodeSettings = EncodeSettings(),
    progress: Callable[[float], None] = lambda hours: None,
) -> "EncodedDataset":
    """Encode the recordings of a data set into ``out``; shards that are there, of the same codec and files, are kept.

    ``progress`` is told the hours that are done. Raises ``DataError`` and ``OSError``.
    """
    out.mkdir(parents=True, exist_ok=True)
    recordings = read_index(dataset)
    folder = dataset if dataset.is_dir() else dataset.parent
    codec = fingerprint(mimi)
    index: list[dict[str, Any]] = []
    hours = 0.0
    for number, group in enumerate(_groups(recordings, settings.versions)):
        shard = out / f"codes-{number:05d}.safetensors"
        key = _key(codec, group, settings)
        if not (shard.is_file() and _metadata(shard).get("key") == key):
            codes = _encode_group(mimi, group, settings)
            part = shard.with_suffix(".part")
            save_file({str(i): each for i, each in enumerate(codes)}, part, metadata={"key": key})
            part.replace(shard)
        for i, (recording, version) in enumerate(group):
            about = recording.about()
            index.append(
                {
                    "path": recording.path.relative_to(folder).as_posix(),
                    "shard": shard.name,
                    "name": str(i),
                    "version": version,
                    "frames": recording.frames,
                    "words": recording.words(),
                    "caller": [(word, start, end) for word, (start, end), _ in about.get("caller", [])],
                    "turns": about.get("turns", []),
                }
            )
            hours += recording.duration / 3600
        progress(hours)
    (out / INDEX).write_text(json.dumps({"codec": codec, "recordings": index}, ensure_ascii=False))
    return EncodedDataset(out)


@dataclass(frozen=True, slots=True)
class EncodedRecording:
    """One version of a recording."""

    codes: Tensor  # int16 [2 K, T]: the agent's, the caller's
    words: tuple[Word, ...]
    caller: tuple[Word, ...]
    """The caller's words; only synthetic data have them."""
    turns: tuple[dict[str, Any], ...]

    @property
    def frames(self) -> int:
        """How long it is."""
        return self.codes.shape[1]


class EncodedDataset:
    """What ``encode_dataset`` has written; shards are read once, when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        """Open a folder; raises ``DataError``."""
        self._folder = folder
        try:
            about = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            self._entries: list[dict[str, Any]] = about["recordings"]
            self.codec: str = about["codec"]
            """Which codec the codes are of: its ``fingerprint``."""
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder}: no codes are here: {error}; `denwa train encode` makes them") from error
        self._shards: dict[str, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @cached_property
    def frames(self) -> list[int]:
        """The length of each."""
        return [entry["frames"] for entry in self._entries]

    def __getitem__(self, i: int) -> EncodedRecording:
        entry = self._entries[i]
        shard = self._shards.get(entry["shard"])
        if shard is None:
            with safe_open(self._folder / entry["shard"], "pt") as file:
                shard = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            self._shards[entry["shard"]] = shard
        return EncodedRecording(
            codes=shard[entry["name"]],
            words=tuple(Word(*word) for word in entry["words"]),
            caller=tuple(Word(*word) for word in entry["caller"]),
            turns=tuple(entry["turns"]),
        )


def fingerprint(mimi: Mimi) -> str:
    """What tells a codec from another: a hash of all that its codes depend on."""
    digest = sha256()
    for name, value in sorted(mimi.state_dict().items()):
        if not name.startswith(("decoder", "upsample")):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


_Group = Sequence[tuple[Recording, int]]


def _groups(recordings: Sequence[Recording], versions: int) -> Iterator[_Group]:
    wanted = [(recording, version) for version in range(versions) for recording in recordings]
    for first in range(0, len(wanted), _PER_SHARD):
        yield wanted[first : first + _PER_SHARD]


def _encode_group(mimi: Mimi, group: _Group, settings: EncodeSettings) -> list[Tensor]:
    rows: list[Audio] = []
    for recording, version in group:
        agent, caller = recording.audio()
        if version:
            name = int.from_bytes(sha256(recording.path.name.encode()).digest()[:8], "big")
            random = np.random.default_rng([settings.seed, version, name])
            caller = augment(caller, agent, settings.augmentation, random)
        rows += [agent, caller]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # like lengths together
    codes: dict[int, Tensor] = {}
    for first in range(0, len(order), settings.batch):
        chosen = order[first : first + settings.batch]
        codes.update(zip(chosen, encode(mimi, [rows[i] for i in chosen]), strict=True))
    return [torch.cat([codes[2 * i], codes[2 * i + 1]]) for i in range(len(group))]


def _key(codec: str, group: _Group, settings: EncodeSettings) -> str:
    """What a shard is made of."""
    files = [(str(r.path), r.path.stat().st_size, r.path.stat().st_mtime_ns, version) for r, version in group]
    made = {"codec": codec, "files": files, "augmentation": asdict(settings.augmentation), "seed": settings.seed}
    return sha256(json.dumps(made).encode()).hexdigest()


def _metadata(shard: Path) -> dict[str, str]:
    with safe_open(shard, "pt") as file:
        return dict(file.metadata() or {})
