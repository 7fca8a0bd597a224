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
    from moshi.models.compression import MimiModel
    from moshi.modules import SEANetDecoder, SEANetEncoder, transformer
    from moshi.quantization import SplitResidualVectorQuantizer

    config = small_mimi.config
    dim = config.seanet.dimension
    seanet = {
        "channels": 1,
        "dimension": dim,
        "causal": True,
        "n_filters": config.seanet.n_filters,
        "n_residual_layers": 1,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "pad_mode": "constant",
        "ratios": list(config.seanet.ratios),
    }
    attention = {
        "d_model": dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "causal": True,
        "layer_scale": 0.01,
        "context": config.context,
        "conv_layout": True,
        "max_period": config.max_period,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": config.dim_feedforward,
        "input_dimension": dim,
        "output_dimensions": [dim],
    }
    quantizer = {
        "dimension": config.codebook_dim,
        "n_q": config.n_q,
        "bins": config.bins,
        "input_dimension": dim,
        "output_dimension": dim,
    }

    def make() -> nn.Module:
        encoder = SEANetEncoder(**seanet)
        model = MimiModel(
            encoder,
            SEANetDecoder(**seanet),
            SplitResidualVectorQuantizer(**quantizer),
            channels=1,
            sample_rate=24_000,
            frame_rate=12.5,
            encoder_frame_rate=24_000 / encoder.hop_length,
            causal=True,
            resample_method="conv",
            encoder_transformer=transformer.ProjectedTransformer(**attention),
            decoder_transformer=transformer.ProjectedTransformer(**attention),
        )
        model.load_state_dict(small_mimi.state_dict())  # strict: every published name is there, and no other
        model.set_num_codebooks(8)
        return model.eval().requires_grad_(False)

    return make


@pytest.fixture
def reference_lm(oracle: None, small_lm: LanguageModel) -> nn.Module:
    """The small language model in the reference's classes."""
    from moshi.models.lm import LMModel

    config = small_lm.config
    model = LMModel(
        delays=list(config.delays),
        n_q=config.n_q,
        dep_q=config.dep_q,
        card=config.card,
        text_card=config.text_card,
        dim=config.dim,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        hidden_scale=config.hidden_scale,
        causal=True,
        layer_scale=None,
        context=config.context,
        max_period=config.max_period,
        gating="silu",
        norm="rms_norm_f32",
        positional_embedding="rope",
        depformer_dim=config.depformer_dim,
        depformer_num_heads=config.depformer_num_heads,
        depformer_num_layers=config.depformer_num_layers,
        depformer_dim_feedforward=config.depformer_dim_feedforward,
        depformer_layer_scale=None,
        depformer_multi_linear=True,
        depformer_context=config.dep_q,
        depformer_max_period=10_000,
        depformer_gating="silu",
        depformer_pos_emb="none",
        depformer_weights_per_step=True,
    )
    model.load_state_dict(small_lm.state_dict())  # strict: every published name is there, and no other
    return model.eval().requires_grad_(False)
