"""Heads that only training has: which word the caller has said, and what the caller wants (reference/tiny.md, part A).

They teach the temporal transformer to listen before its own speech depends on it. Runs in the training process.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.batch import Batch
from model_runtime.training.batches import HeardBatch
from model_runtime.training.losses import weighted_cross_entropy
from model_runtime.training.tasks import LanguageModelTask, LanguageModelTaskSettings


@dataclass(frozen=True)
class ListeningSettings:
    """How many things can be heard, and how much they count."""

    words: int
    intents: int
    heard: float = 1.0
    meant: float = 1.0


class ListeningTask(LanguageModelTask):
    """A language model's task with two heads more, for batches that tell what is heard; others count as before."""

    def __init__(self, lm: LanguageModel, settings: LanguageModelTaskSettings, listening: ListeningSettings) -> None:
        super().__init__(lm, settings)
        self._listening = listening
        dim = lm.config.dim
        self.head = nn.ModuleDict(
            {"heard": nn.Linear(dim, listening.words), "meant": nn.Linear(dim, listening.intents)}
        )

    def weigh(self, batch: Batch) -> Tensor:
        """The sums ``[4]`` for text, audio, words and intents."""
        counts = [(each >= 0).sum().double() for each in self._labels(batch)]
        return torch.cat([super().weigh(batch), torch.stack(counts)])

    def forward(self, batch: Batch, norms: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """As the language model's, with ``heard`` and ``meant``, and the part of each that the heads tell right.

        A frame's label is told from what came before it.
        """
        losses, hidden = self.losses(batch, norms, random)
        for name, labels, norm in zip(("heard", "meant"), self._labels(batch), norms[2:], strict=True):
            logits = self.head[name](hidden)
            value = weighted_cross_entropy(logits, labels, (labels >= 0).float(), norm)
            losses["loss"] = losses["loss"] + getattr(self._listening, name) * value
            losses[name] = value.detach()
            right = ((logits.argmax(-1) == labels) & (labels >= 0)).sum().double()
            losses[f"{name}_right"] = right / norm.clamp(min=1)
        return losses

    @staticmethod
    def _labels(batch: Batch) -> tuple[Tensor, Tensor]:
        """``heard`` and ``meant`` ``[B, T]``; -1 everywhere where nobody tells."""
        if isinstance(batch, HeardBatch):
            return batch.heard, batch.meant
        nothing = torch.full_like(batch.tokens[:, 0], -1)
        return nothing, nothing
