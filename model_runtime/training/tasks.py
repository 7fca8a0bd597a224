"""What a trainer trains: a module that turns a batch into losses. The language model's; mimi_task has the codec's.

Runs in the training process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.batch import Batch
from model_runtime.training.forward import TeacherForcing, checkpoint_activations, delayed, delayed_mask
from model_runtime.training.losses import LossWeights, stream_weights, weight_sums, weighted_cross_entropy

Item = TypeVar("Item")


class Task(nn.Module, Generic[Item]):
    """A module with losses. Called with a prepared batch, it returns them by name; ``loss`` is the one to minimise.

    A batch may be a part of the step's (accumulation, several processes): losses are normalised by sums over the whole
    step, which ``weigh`` gives the parts of, so that parts add up to what one large batch would give.
    """

    def prepare(self, batch: Item, random: torch.Generator) -> Item:
        """The batch as it is trained on."""
        return batch

    def weigh(self, batch: Item) -> Tensor:
        """The sums of weights ``[n]`` float64 of a prepared batch."""
        raise NotImplementedError

    def forward(self, batch: Item, norms: Tensor, random: torch.Generator) -> Mapping[str, Tensor]:
        """The losses ``[]`` of a prepared batch, normalised by ``norms [n]``."""
        raise NotImplementedError

    def layers(self) -> list[nn.Module]:
        """The modules that fill the memory, to be sharded one by one."""
        return []


@dataclass(frozen=True)
class Corruption:
    """Which part of the tokens that are given, not of those that are wanted, is replaced by random ones.

    A model that has only ever been given the truth is lost after its first mistake.
    """

    text: float = 0.0
    own: float = 0.0
    user: float = 0.0


@dataclass(frozen=True)
class LanguageModelTaskSettings:
    """How a language model is trained, beside its optimizer."""

    weights: LossWeights = field(default_factory=LossWeights)
    user_stream: bool = True
    """Whether the caller's audio is heard; without, there is one stream of audio, as in pre-training."""
    depth_share: float = 1.0
    """Part of the frames, drawn at random, whose audio codes count; the depth transformer is passed only for these."""
    gradient_checkpointing: bool = False
    corruption: Corruption = field(default_factory=Corruption)


class LanguageModelTask(Task[Batch]):
    """Teacher forcing: every token of every stream from what came before it."""

    def __init__(self, lm: LanguageModel, settings: LanguageModelTaskSettings) -> None:
        super().__init__()
        self.forcing = TeacherForcing(lm)
        self._settings = settings
        config = lm.config
        lm.extra_heads.requires_grad_(False)  # no stage has targets for them
        self._generated = 1 + config.dep_q
        self._own = config.own_q
        if settings.gradient_checkpointing:
            checkpoint_activations(lm.transformer)

    @property
    def lm(self) -> LanguageModel:
        """The model."""
        return self.forcing.lm

    def prepare(self, batch: Batch, random: torch.Generator) -> Batch:
        """Take away the caller and the frames that do not count, where the settings say so."""
        settings = self._settings
        if not settings.user_stream:
            batch = batch.without_user(self._own)
        if settings.depth_share < 1 and self.training:
            mask = batch.loss_mask.clone()
            drawn = torch.rand(len(mask), 1, mask.shape[-1], generator=random) < settings.depth_share
            mask[:, 1:] *= drawn.to(mask.device)
            batch = replace(batch, loss_mask=mask)
        return batch

    def weigh(self, batch: Batch) -> Tensor:
        """The sums ``[2]`` for text and audio."""
        return weight_sums(self._targets(batch)[2])

    def forward(self, batch: Batch, norms: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """``loss`` and its parts ``text`` and ``audio``."""
        return self.losses(batch, norms, random)[0]

    def losses(self, batch: Batch, norms: Tensor, random: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """The losses, and what the temporal transformer has made of each frame: hidden ``[B, T, dim]``."""
        columns, targets, weights = self._targets(batch)
        audio_weights = weights[:, 1:].transpose(1, 2).flatten(0, 1)  # [B * T, dep_q]
        rows = audio_weights.any(1).nonzero().squeeze(1)
        if not len(rows):  # at least one frame without weight, so that every parameter has a gradient in every process
            rows = torch.zeros(1, dtype=torch.long, device=columns.device)
        logits = self.forcing(columns, rows, self._corrupted(columns[..., :-1], random))
        text = weighted_cross_entropy(logits.text, targets[:, 0], weights[:, 0], norms[0])
        codes = targets[:, 1:].transpose(1, 2).flatten(0, 1)[rows]
        audio = weighted_cross_entropy(logits.audio, codes, audio_weights[rows], norms[1])
        return {"loss": text + audio, "text": text.detach(), "audio": audio.detach()}, logits.hidden

    def _corrupted(self, given: Tensor, random: torch.Generator) -> Tensor:
        """What the temporal transformer is given in training instead of ``given [B, K, T]``."""
        config, settings = self.lm.config, self._settings.corruption
        if not self.training or settings == Corruption():
            return given
        device, user = given.device, config.n_q - self._own
        shares = torch.tensor([settings.text] + [settings.own] * self._own + [settings.user] * user)
        cards = torch.tensor([config.text_card] + [config.card] * config.n_q)
        wrong = torch.rand(given.shape, generator=random) < shares[:, None]
        drawn = (torch.rand(given.shape, generator=random) * cards[:, None]).long()
        return torch.where(wrong.to(device) & (given >= 0), drawn.to(device), given)

    def layers(self) -> list[nn.Module]:
        """The layers of the temporal transformer."""
        return list(self.lm.transformer.layers)

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Columns ``[B, K, T + 1]``, and targets and weights ``[B, 1 + dep_q, T]``."""
        columns = delayed(batch.tokens, self.lm.config)
        mask = delayed_mask(batch.loss_mask, self.lm.config)[:, : self._generated]
        targets = columns[:, : self._generated, 1:]
        return columns, targets, stream_weights(targets, mask, self._settings.weights, self._own)
