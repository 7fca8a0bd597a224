"""What training is fed: batches of tokens or of audio, and the sources they come from. Owns no data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from model_runtime.lm.delays import ZERO

Item = TypeVar("Item", covariant=True)


@dataclass(frozen=True)
class Batch:
    """Token streams without delays: column t holds what belongs to frame t; ``ZERO`` (-1) where nothing stands."""

    tokens: Tensor  # [B, K, T] int64: text, own codes, user codes
    loss_mask: Tensor  # [B, K, T] bool, or float32 weights: how much a position counts

    def __post_init__(self) -> None:
        """Refuse a mask of another shape."""
        assert self.tokens.shape == self.loss_mask.shape, (self.tokens.shape, self.loss_mask.shape)

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(
            self.tokens.to(device, non_blocking=True),
            self.loss_mask.to(device, non_blocking=True),
        )

    def without_user(self, own: int) -> "Batch":
        """The same with nothing in the streams from ``1 + own`` on: one stream of audio, as in pre-training."""
        tokens, mask = self.tokens.clone(), self.loss_mask.clone()
        tokens[:, 1 + own :] = ZERO
        mask[:, 1 + own :] = 0
        return replace(self, tokens=tokens, loss_mask=mask)


@dataclass(frozen=True)
class AudioBatch:
    """Audio for the codec, and what its semantic code is to be distilled from."""

    audio: Tensor  # [B, 1, T * 1920] float32
    labels: Tensor | None = None  # [B, T] int64 phone of each frame; -1: unknown
    features: Tensor | None = None  # [B, T, D] float32 of a self-supervised model, at 12.5 Hz

    def __len__(self) -> int:
        return len(self.audio)

    def to(self, device: torch.device) -> "AudioBatch":
        """The same on a device."""
        moved = (None if each is None else each.to(device) for each in (self.labels, self.features))
        return AudioBatch(self.audio.to(device), *moved)


class BatchSource(Protocol[Item]):
    """An endless, seeded stream of batches that can say where it is and go on from there.

    In a run of several processes each has a source of its own, which yields that process's share.
    """

    def __iter__(self) -> Iterator[Item]:
        """The batches from where the source is on; there is one iterator at a time."""

    def state_dict(self) -> dict[str, Any]:
        """Where the source is: all that decides what the next batch will be, as numbers, strings and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another source was."""
