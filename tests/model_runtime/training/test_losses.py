"""Hand-computed cases, and the reference's own model and formula as oracle."""

from math import log

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.lm.language_model import LanguageModel
from model_runtime.text import EPAD, PAD
from model_runtime.training.forward import TeacherForcing, delayed, delayed_mask
from model_runtime.training.losses import LossWeights, lm_loss, stream_weights, weight_sums
from tests.model_runtime.training.toys import toy_batch


def test_a_case_by_hand() -> None:
    """Two frames, two codes: text (PAD half as heavy) and audio (semantic 100 : 1) are normalised on their own."""
    text = torch.zeros(1, 2, 5)
    text[0, 0, PAD] = log(6.0)  # probability 6 / 10
    audio = torch.zeros(1, 2, 2, 4)
    audio[0, 0, 0, 1] = log(5.0)  # 5 / 8
    targets = torch.tensor([[[PAD, 4], [1, 2], [0, 3]]])
    mask = torch.ones(1, 3, 2, dtype=torch.bool)
    mask[0, 2, 1] = False
    loss = lm_loss(text, audio, targets, mask, LossWeights(), own=2)
    by_hand = (0.5 * -log(0.6) + 1.0 * log(5)) / 1.5
    assert float(loss.text) == pytest.approx(by_hand, rel=1e-6)
    by_ear = (100 * -log(5 / 8) + 100 * log(4) + 1 * log(4)) / 201
    assert float(loss.audio) == pytest.approx(by_ear, rel=1e-6)
    assert float(loss.total) == pytest.approx(by_hand + by_ear, rel=1e-6)


def test_what_counts_how_much() -> None:
    """EPAD is padding too, absent tokens never count, the user's codes only where they are asked for."""
    targets = torch.tensor([[[EPAD, PAD, 7], [1, -1, 2], [3, 3, 3], [1, 1, 1], [2, 2, 2]]])
    mask = torch.ones_like(targets, dtype=torch.bool)
    assert stream_weights(targets, mask, LossWeights(), own=2)[0].tolist() == [
        [0.5, 0.5, 1], [100, 0, 100], [1, 1, 1], [0, 0, 0], [0, 0, 0]
    ]  # fmt: skip
    with_user = stream_weights(targets, mask, LossWeights(user=0.5), own=2)
    assert with_user[0, 3:].tolist() == [[50, 50, 50], [0.5, 0.5, 0.5]]


def test_nothing_counts() -> None:
    """A batch without audio, as text pre-training has it, has an audio loss of 0 and finite gradients."""
    text, audio = torch.zeros(1, 2, 5, requires_grad=True), torch.full((1, 2, 2, 4), float("nan"), requires_grad=True)
    targets = torch.tensor([[[1, 4], [-1, -1], [-1, -1]]])
    loss = lm_loss(text, audio, targets, torch.ones(1, 3, 2, dtype=torch.bool), LossWeights(), own=2)
    assert float(loss.audio) == 0
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert text.grad is not None
    assert text.grad.isfinite().all()


def fine_tuning_loss(logits: Tensor, target: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """The reference fine-tuning code's formula, written anew: CE where the mask holds, over the sum of weights."""
    weights = weights * mask
    each = F.cross_entropy(logits.flatten(0, -2), torch.where(mask, target, 0).flatten(), reduction="none")
    return torch.where(weights.flatten() > 0, each * weights.flatten(), 0.0).sum() / weights.sum()


def test_equals_reference(small_lm: LanguageModel, reference_lm: nn.Module) -> None:
    """On the reference's own undelayed logits and masks, its formula gives our loss over delayed columns."""
    batch = toy_batch(small_lm.config, seed=5)
    theirs = reference_lm(batch.tokens)
    text, codes = batch.tokens[:, :1], batch.tokens[:, 1:9]
    padding = torch.where((text == PAD) | (text == EPAD), 0.5, 1.0)
    semantic = torch.ones(codes.shape)
    semantic[:, 0] = 100
    counted = theirs.mask & batch.loss_mask[:, 1:9]
    expected = [
        fine_tuning_loss(theirs.text_logits, text, theirs.text_mask & batch.loss_mask[:, :1], padding),
        fine_tuning_loss(theirs.logits, codes, counted, semantic),
    ]
    columns = delayed(batch.tokens, small_lm.config)
    logits = TeacherForcing(small_lm)(columns)
    mask = delayed_mask(batch.loss_mask, small_lm.config)
    loss = lm_loss(logits.text, logits.audio_grid(), columns[:, :9, 1:], mask[:, :9], LossWeights())
    torch.testing.assert_close(torch.stack([loss.text, loss.audio]), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_parts_of_a_batch_add_up(small_lm: LanguageModel) -> None:
    """With the norms of the whole batch, the losses of its halves sum to the whole's."""
    batch = toy_batch(small_lm.config, seed=6)
    columns = delayed(batch.tokens, small_lm.config)
    logits, mask = TeacherForcing(small_lm)(columns), delayed_mask(batch.loss_mask, small_lm.config)

    def loss(rows: slice, norms: Tensor | None) -> Tensor:
        given = (logits.text[rows], logits.audio_grid()[rows], columns[rows, :9, 1:], mask[rows, :9])
        return lm_loss(*given, LossWeights(), norms=norms).total

    norms = weight_sums(stream_weights(columns[:, :9, 1:], mask[:, :9], LossWeights()))
    halves = loss(slice(0, 1), norms) + loss(slice(1, None), norms)
    torch.testing.assert_close(halves, loss(slice(None), None))
