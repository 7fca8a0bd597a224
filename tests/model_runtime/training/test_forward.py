from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.lm.delays import TokenGrid
from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.forward import (
    TeacherForcing,
    checkpoint_activations,
    delayed,
    delayed_mask,
)
from model_runtime.training.losses import LossWeights, lm_loss
from tests.model_runtime.conftest import SMALL_LM, randomise
from tests.model_runtime.training.toys import toy_batch

SHAPES = {
    "moshi": SMALL_LM,
    "newer": replace(
        SMALL_LM,
        positional_embedding="rope_concat",
        kv_repeat=2,
        depformer_kv_repeat=2,
        depformer_norm="layer_norm",
        depformer_low_rank_embeddings=8,
        depformer_weights_per_step_schedule=(0, 1, 2, 2, 2, 3, 3, 3),
    ),
    "both speakers": replace(SMALL_LM, dep_q=16),
}


def model(config: LanguageModelConfig, seed: int = 2) -> LanguageModel:
    """A random model that is to be trained."""
    lm = LanguageModel(config)
    randomise(lm, seed)
    return lm


def gradients(lm: LanguageModel, bf16: bool = False) -> tuple[float, dict[str, Tensor]]:
    """The loss of one batch and the gradient of every parameter."""
    config = lm.config
    batch = toy_batch(config, seed=1)
    columns, mask = delayed(batch.tokens, config), delayed_mask(batch.loss_mask, config)
    streams = 1 + config.dep_q
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = TeacherForcing(lm)(columns)
        given = (logits.text, logits.audio_grid(), columns[:, :streams, 1:], mask[:, :streams])
        loss = lm_loss(*given, LossWeights(user=1.0)).total
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: each.grad for name, each in lm.named_parameters() if each.grad is not None}
    lm.zero_grad()
    return float(loss.detach()), found


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_streaming_step(shape: str) -> None:
    """What training computes for a whole batch is what the runtime computes frame by frame, within 1e-4."""
    lm = model(SHAPES[shape])
    columns = delayed(toy_batch(lm.config, seed=3, frames=20).tokens, lm.config)
    logits = TeacherForcing(lm)(columns)
    state, everyone = lm.new_state(len(columns)), torch.ones(len(columns), dtype=torch.bool)
    with torch.no_grad():
        for t in range(columns.shape[-1] - 1):
            hidden, text = lm.step(columns[..., t], state, everyone)
            torch.testing.assert_close(logits.text[:, t], text, rtol=0, atol=1e-4)
            given = columns[:, : 1 + lm.config.dep_q, t + 1]
            audio = lm.depth_logits(hidden, given[:, 0], given[:, 1:])
            torch.testing.assert_close(logits.audio_grid()[:, :, t], audio, rtol=0, atol=1e-4)


def test_columns_are_those_the_runtime_steps_through() -> None:
    """The delayed columns of a conversation are the inputs that the runtime's token grid gives its steps."""
    tokens = toy_batch(SMALL_LM, seed=4).tokens
    columns = delayed(tokens, SMALL_LM)
    grid = TokenGrid(SMALL_LM, torch.device("cpu"))
    state, everyone = grid.new_state(len(tokens)), torch.ones(len(tokens), dtype=torch.bool)
    for t in range(tokens.shape[-1]):
        # The user's codes of frame n arrive with the step whose column is n + 1; those of the first call are not used.
        user = tokens[:, 9:, t - 1] if t else torch.zeros_like(tokens[:, 9:, 0])
        grid.hear(state, user, everyone)
        assert torch.equal(grid.inputs(state, everyone), columns[..., t])
        grid.say(state, columns[:, 0, t + 1], columns[:, 1:9, t + 1], everyone)


def test_chosen_rows_are_those_of_the_whole() -> None:
    """Audio logits of some frames are the same as with all frames."""
    lm = model(SMALL_LM)
    columns = delayed(toy_batch(SMALL_LM, seed=5).tokens, SMALL_LM)
    rows = torch.tensor([2, 17, 30])
    whole, some = TeacherForcing(lm)(columns), TeacherForcing(lm)(columns, rows)
    torch.testing.assert_close(some.audio, whole.audio[rows])


def test_every_parameter_learns() -> None:
    """Nothing is cut off from the loss."""
    lm = model(SMALL_LM)
    _, found = gradients(lm)
    assert {name for name, _ in lm.named_parameters()} == set(found)
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in found.values())


def test_gradient_checkpointing_changes_no_gradient() -> None:
    """Computing activations again gives the same gradients, bit for bit."""
    loss, expected = gradients(model(SMALL_LM))
    lm = model(SMALL_LM)
    checkpoint_activations(lm.transformer)
    again, found = gradients(lm)
    assert again == loss
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())


def test_bfloat16_gradients_are_near() -> None:
    """Under bfloat16 autocast the gradient of every matrix points where float32's does."""
    loss, expected = gradients(model(SMALL_LM))
    near, found = gradients(model(SMALL_LM), bf16=True)
    assert near == pytest.approx(loss, rel=0.02)
    cosines = {
        name: float(torch.cosine_similarity(found[name].flatten(), grad.flatten(), dim=0))
        for name, grad in expected.items()
    }
    assert min(cosines.values()) > 0.98, min(cosines, key=lambda name: cosines[name])
