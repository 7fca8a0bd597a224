from dataclasses import replace

import pytest
import torch
from torch import nn

from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.optimizers import (
    Muon,
    OptimizerSettings,
    learning_rate,
    make_optimizer,
    matrix_blocks,
    orthogonal,
    set_learning_rates,
)
from tests.model_runtime.conftest import SMALL_LM


def test_one_cycle_is_torchs() -> None:
    """The schedule is that of OneCycleLR with the defaults that moshi-finetune leaves."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=60, pct_start=0.05)
    for step in range(60):
        assert learning_rate(OptimizerSettings(warmup=0.05), step, 60) == pytest.approx(torchs.get_last_lr()[0])
        optimizer.step()
        if step < 59:
            torchs.step()


def test_cosine_and_constant() -> None:
    """Both rise linearly; one falls to its floor, the other stays."""
    settings = OptimizerSettings(schedule="cosine", warmup=0.1, floor=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(101)]
    assert rates[:2] == pytest.approx([1 / 11, 2 / 11])
    assert rates[10] == max(rates) == 1
    assert rates[100] == pytest.approx(0.1)
    constant = replace(settings, schedule="constant", warmup=0.0)
    assert [learning_rate(constant, step, 100) for step in (0, 99)] == [1, 1]


def test_groups() -> None:
    """The depth transformer has its own rate, and gains and tables do not decay; every parameter is in one group."""
    lm = LanguageModel(SMALL_LM)
    optimizer = make_optimizer(lm, OptimizerSettings(lr=3e-5, depth_lr=2e-4))
    of = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    assert set(of) == {id(each) for each in lm.parameters()}
    assert of[id(lm.text_linear.weight)]["lr"] == 3e-5
    assert of[id(lm.depformer_in[0].weight)]["lr"] == of[id(lm.linears[3].weight)]["lr"] == 2e-4
    assert of[id(lm.out_norm.alpha)]["weight_decay"] == of[id(lm.text_emb.weight)]["weight_decay"] == 0
    assert of[id(lm.text_linear.weight)]["weight_decay"] == 0.1
    set_learning_rates(optimizer, 0.5)
    assert of[id(lm.text_linear.weight)]["lr"] == pytest.approx(1.5e-5)


@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (12, 4, 5)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    """Newton-Schulz leaves singular values near 1, times the scale of tall matrices."""
    random = torch.Generator().manual_seed(1)
    out = orthogonal(torch.randn(shape, generator=random)).flatten(1)
    values = torch.linalg.svdvals(out) / max(1.0, out.shape[0] / out.shape[1]) ** 0.5
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3


def test_blocks_are_orthogonal_on_their_own() -> None:
    """Queries, keys and values, and the sets of depth steps, are matrices of their own."""
    blocks = matrix_blocks(LanguageModel(SMALL_LM))
    assert blocks["transformer.layers.0.self_attn.in_proj_weight"] == 3
    assert blocks["depformer.layers.1.self_attn.in_proj_weight"] == 24
    assert blocks["depformer.layers.1.self_attn.out_proj.weight"] == 8
    random = torch.Generator().manual_seed(1)
    stacked = torch.randn(24, 8, generator=random)
    apart = torch.cat([orthogonal(part) for part in stacked.split(8)])
    torch.testing.assert_close(orthogonal(stacked, 3), apart)


def test_muon_moves_tables_and_gains_by_adam() -> None:
    """One step of Muon's second half is a step of torch's AdamW."""
    random = torch.Generator().manual_seed(2)
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    settings = OptimizerSettings(kind="muon", lr=0.01)
    group = {"params": [ours], "lr": 0.01, "base_lr": 0.01, "weight_decay": 0.1, "muon": False, "blocks": 1}
    muon = Muon([group], settings)
    adam = torch.optim.AdamW([theirs], lr=0.01, betas=settings.betas, eps=settings.eps, weight_decay=0.1)
    for _ in range(4):
        ours.grad = torch.randn(5, generator=random)
        theirs.grad = ours.grad.clone()
        muon.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)
