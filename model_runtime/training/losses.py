"""The language model's loss: cross-entropy per stream, text and audio each normalised by its own weights.

The formula is that of the reference's fine-tuning code (moshi-finetune), which is the paper's (arXiv 2410.00037,
section 3.4.4, equation 7) with a lighter weight for padding:

    loss = sum(w_text * CE_text) / sum(w_text) + sum(w_audio * CE_audio) / sum(w_audio)

Runs in the training process; owns nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model_runtime.text import EPAD, PAD


@dataclass(frozen=True)
class LossWeights:
    """How much a token of each kind counts."""

    semantic: float = 100.0
    """First codebook of a speaker, against ``acoustic``."""
    acoustic: float = 1.0
    padding: float = 0.5
    """Text PAD and EPAD, against 1 for a word's pieces."""
    user: float = 0.0
    """Factor of the user's codes, of a model that predicts them as well (``dep_q`` = ``n_q``)."""


@dataclass(frozen=True)
class LossParts:
    """A loss and what it is made of; ``total`` has a gradient."""

    total: Tensor  # []
    text: Tensor  # []
    audio: Tensor  # []


def stream_weights(targets: Tensor, mask: Tensor, weights: LossWeights, own: int = 8) -> Tensor:
    """The weight ``[B, 1 + Q, T]`` float32 of every target ``[B, 1 + Q, T]`` where ``mask`` (bool or float) holds.

    A speaker has ``own`` codes; where Q is more, the others are the user's. Negative targets never count.
    """
    streams = targets.shape[1] - 1
    per_stream = [1.0]
    for k in range(streams):
        speaker = 1.0 if k < own else weights.user
        per_stream.append(speaker * (weights.semantic if k % own == 0 else weights.acoustic))
    out = mask.float() * (targets >= 0) * torch.tensor(per_stream, device=targets.device)[:, None]
    text = targets[:, 0]
    out[:, 0] *= torch.where((text == PAD) | (text == EPAD), weights.padding, 1.0)
    return out


def weight_sums(stream_weights: Tensor) -> Tensor:
    """The sums ``[2]`` float64 that text and audio losses are normalised by."""
    wide = stream_weights.double()
    return torch.stack([wide[:, 0].sum(), wide[:, 1:].sum()])


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, norm: Tensor) -> Tensor:
    """``sum(weights * CE) / norm`` of ``logits [..., V]`` in float32; 0 where nothing counts.

    Targets and logits without weight may be anything.
    """
    counted = weights > 0
    wanted = torch.where(counted, targets, 0)
    each = F.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten(), reduction="none").view_as(weights)
    total = torch.where(counted, each * weights, 0.0).sum()
    return total / torch.where(norm > 0, norm, 1.0).to(total.dtype)


def lm_loss(
    text_logits: Tensor,
    audio_logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: LossWeights,
    own: int = 8,
    norms: Tensor | None = None,
) -> LossParts:
    """The loss of ``text_logits [B, T, Vt]`` and ``audio_logits [B, Q, T, V]`` for ``targets [B, 1 + Q, T]``.

    Logits and targets stand at the same columns (both with delays, or both without). ``norms [2]`` replaces the sums
    of weights of this batch by those of a larger one of which it is a part.
    """
    assert audio_logits.shape[:3] == targets[:, 1:].shape, (audio_logits.shape, targets.shape)
    each = stream_weights(targets, mask, weights, own)
    norms = weight_sums(each) if norms is None else norms
    text = weighted_cross_entropy(text_logits, targets[:, 0], each[:, 0], norms[0])
    audio = weighted_cross_entropy(audio_logits, targets[:, 1:], each[:, 1:], norms[1])
    return LossParts(text + audio, text.detach(), audio.detach())
