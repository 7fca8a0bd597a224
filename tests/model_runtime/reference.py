"""The reference package's classes in the shapes of our configurations; weights are loaded under the published names.

Importing this asks for nothing; calling it asks for the package ``moshi`` (see ``oracle`` in conftest.py).
"""

from collections.abc import Mapping

from torch import Tensor, nn

from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig


def reference_mimi(config: MimiConfig, weights: Mapping[str, Tensor], codebooks: int = 8) -> nn.Module:
    """A codec of the reference's; the names of ``weights`` must be exactly those it knows."""
    from moshi.models.compression import MimiModel
    from moshi.modules import SEANetDecoder, SEANetEncoder, transformer
    from moshi.quantization import SplitResidualVectorQuantizer

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
    model.load_state_dict(weights)
    model.set_num_codebooks(codebooks)
    return model.eval().requires_grad_(False)


def reference_lm(config: LanguageModelConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """A language model of the reference's; the names of ``weights`` must be exactly those it knows."""
    from moshi.models.lm import LMModel

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
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)
