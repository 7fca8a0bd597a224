"""Small batches, and sources of them that can be put back: what training's tests are fed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.text import EPAD, PAD
from model_runtime.training.batch import AudioBatch, Batch

Item = TypeVar("Item")


def toy_batch(config: LanguageModelConfig, seed: int, size: int = 3, frames: int = 14) -> Batch:
    """A dialogue whose codes follow from a few hidden tones, so that there is something to learn."""
    random = torch.Generator().manual_seed(seed)
    tone = torch.randint(4, (size, 1, frames), generator=random)
    codes = (tone * 7 + torch.arange(config.n_q)[:, None]) % config.card
    text = torch.where(tone[:, 0] == 1, EPAD, torch.where(tone[:, 0] == 2, 10 + tone[:, 0], PAD))
    tokens = torch.cat([text[:, None], codes], dim=1)
    mask = torch.rand(tokens.shape, generator=random) < 0.9
    return Batch(tokens, mask)


def toy_audio(seed: int, size: int = 2, frames: int = 6) -> AudioBatch:
    """Harmonic tones whose pitch changes with a phone label per frame."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (size, frames // 2), generator=random).repeat_interleave(2, 1)  # [B, T]
    pitch = (140 + 80 * labels.float()).repeat_interleave(1920, 1)
    phase = (2 * torch.pi * pitch / 24_000).cumsum(-1)
    audio = 0.2 * torch.sin(phase) + 0.1 * torch.sin(3 * phase) + 0.002 * torch.randn(phase.shape, generator=random)
    return AudioBatch(audio[:, None], labels)


class ToySource(Generic[Item]):
    """Batches made from consecutive seeds; ``share`` of ``shares`` processes."""

    def __init__(self, make: Callable[[int], Item], share: int = 0, shares: int = 1, cycle: int = 10**9) -> None:
        self._make = make
        self._position = share
        self._shares = shares
        self._cycle = cycle

    def __iter__(self) -> Iterator[Item]:
        while True:
            self._position += self._shares
            yield self._make((self._position - self._shares) % self._cycle)

    def state_dict(self) -> dict[str, Any]:
        """The next seed."""
        return {"position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with that seed."""
        self._position = state["position"]
