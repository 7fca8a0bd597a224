"""What the model's tests share: one thread, small random models, and the reference package as oracle."""

import importlib.util
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig, SeanetConfig
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.mimi.quantizer import Codebook
from tests.model_runtime import reference

ORACLE = "pip install --no-deps moshi==0.2.13 && pip install einops 'huggingface-hub<1' tqdm"

SMALL_MIMI = MimiConfig(
    seanet=SeanetConfig(dimension=32, n_filters=4),
    num_heads=4,
    num_layers=2,
    dim_feedforward=48,
    context=10,
    codebook_dim=16,
    bins=64,
    n_q=8,
)
SMALL_LM = LanguageModelConfig(
    dim=64,
    num_heads=4,
    num_layers=2,
    context=12,
    text_card=50,
    card=64,
    depformer_dim=32,
    depformer_num_heads=4,
    depformer_num_layers=2,
    depformer_dim_feedforward=132,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and tests share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def oracle() -> None:
    """Ask for the reference package; its absence fails in CI and is skipped elsewhere."""
    if importlib.util.find_spec("moshi") is None:
        line = f"the package moshi is missing: {ORACLE}"
        if os.environ.get("CI"):
            pytest.fail(line)
        pytest.skip(line)
    os.environ["NO_TORCH_COMPILE"] = "1"  # read when the package is imported


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Give every parameter and codebook a value that matters, at a scale that keeps signals alive."""
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=random)
        if parameter.squeeze().dim() < 2:
            parameter.copy_(0.5 + 0.2 * drawn)
        else:
            parameter.copy_(drawn / parameter[0].numel() ** 0.5)
    for codebook in module.modules():
        if isinstance(codebook, Codebook):
            codebook.embedding_sum.copy_(torch.randn(codebook.embedding_sum.shape, generator=random))
            codebook.cluster_usage.copy_(0.5 + torch.rand(codebook.cluster_usage.shape, generator=random))
            codebook.refresh()


@pytest.fixture
def small_mimi() -> Mimi:
    """A random codec whose attention sees 10 positions (5 frames)."""
    mimi = Mimi(SMALL_MIMI).eval().requires_grad_(False)
    randomise(mimi, 1)
    return mimi


@pytest.fixture
def small_lm() -> LanguageModel:
    """A random language model whose attention sees 12 frames."""
    lm = LanguageModel(SMALL_LM).eval().requires_grad_(False)
    randomise(lm, 2)
    return lm


@pytest.fixture
def reference_mimi(oracle: None, small_mimi: Mimi) -> Callable[[], nn.Module]:
    """Make copies of the small codec in the reference's classes."""
    return lambda: reference.reference_mimi(small_mimi.config, small_mimi.state_dict())


@pytest.fixture
def reference_lm(oracle: None, small_lm: LanguageModel) -> nn.Module:
    """The small language model in the reference's classes."""
    return reference.reference_lm(small_lm.config, small_lm.state_dict())
