"""Heads that only training has: which word the caller has said, and what the caller wants (reference/tiny.md, part A).

They teach the temporal transformer to listen before its own speech depends on it. Runs in the training process.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model_runtime.errors import CheckpointError
from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.batch import Batch
from model_runtime.training.batches import HeardBatch
from model_runtime.training.forward import delayed
from model_runtime.training.losses import weighted_cross_entropy
from model_runtime.training.tasks import LanguageModelTask, LanguageModelTaskSettings

HEADS: Final = "heads.safetensors"
"""Of a listening stage's export: what the next stage's heads may begin as; the runtime does not read it."""


@dataclass(frozen=True)
class ListeningSettings:
    """How many things can be heard, and how much they count."""

    words: int
    intents: int
    heard: float = 1.0
    meant: float = 1.0
    at: Literal["caller", "frame"] = "frame"
    """What they are told from: what the temporal transformer has made of a frame; or what it is given of the caller,
    through the caller's convolutions. Then nothing behind these is computed or trained.
    """
    begin: str | None = None
    """A listening stage's export, whose heads these begin as; None: new ones."""


class ListeningTask(LanguageModelTask):
    """A language model's task with two heads more, for batches that tell what is heard; others count as before."""

    def __init__(self, lm: LanguageModel, settings: LanguageModelTaskSettings, listening: ListeningSettings) -> None:
        super().__init__(lm, settings)
        self._listening = listening
        dim = lm.config.dim
        self.head = nn.ModuleDict(
            {"heard": nn.Linear(dim, listening.words), "meant": nn.Linear(dim, listening.intents)}
        )
        if listening.at == "caller":
            lm.requires_grad_(False)
            for heard in (*[*lm.emb][lm.config.own_q :], lm.user_convolutions):
                heard.requires_grad_(True)
        if listening.begin is not None:
            self._load_heads(Path(listening.begin) / HEADS)

    def weigh(self, batch: Batch) -> Tensor:
        """The sums ``[4]`` for text, audio, words and intents."""
        counts = [(each >= 0).sum().double() for each in self._labels(batch)]
        return torch.cat([super().weigh(batch), torch.stack(counts)])

    def forward(self, batch: Batch, norms: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """As the language model's, with ``heard`` and ``meant``, and the part of each that the heads tell right.

        A frame's label is told from what came before it.
        """
        if self._listening.at == "caller":
            losses, hidden = self._caller(batch, random)
        else:
            losses, hidden = self.losses(batch, norms, random)
        for name, labels, norm in zip(("heard", "meant"), self._labels(batch), norms[2:], strict=True):
            logits = self.head[name](hidden)
            value = weighted_cross_entropy(logits, labels, (labels >= 0).float(), norm)
            losses["loss"] = losses["loss"] + getattr(self._listening, name) * value
            losses[name] = value.detach()
            right = ((logits.argmax(-1) == labels) & (labels >= 0)).sum().double()
            losses[f"{name}_right"] = right / norm.clamp(min=1)
        return losses

    def _caller(self, batch: Batch, random: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """No losses yet, and what each frame ``[B, T, dim]`` of the caller is to the temporal transformer."""
        given = self._corrupted(delayed(batch.tokens, self.lm.config)[..., :-1], random)
        hidden = self.lm.hear(given[:, 1 + self.lm.config.own_q :])
        return {"loss": hidden.new_zeros(())}, hidden

    def save_heads(self, folder: Path) -> None:
        """Leave the heads beside the model's checkpoint, for the next stage."""
        save_file({name: each.contiguous() for name, each in self.head.state_dict().items()}, folder / HEADS)

    def _load_heads(self, path: Path) -> None:
        try:
            self.head.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"listening.begin: {path} has no heads for these words and intents: {error}"
            ) from error

    @staticmethod
    def _labels(batch: Batch) -> tuple[Tensor, Tensor]:
        """``heard`` and ``meant`` ``[B, T]``; -1 everywhere where nobody tells."""
        if isinstance(batch, HeardBatch):
            return batch.heard, batch.meant
        nothing = torch.full_like(batch.tokens[:, 0], -1)
        return nothing, nothing
