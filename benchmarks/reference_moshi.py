"""The reference package's classes over our weights, for benchmarks that run both side by side.

    pip install --no-deps moshi==0.2.13 && pip install einops 'huggingface-hub<1' tqdm

Importing the package reads ``NO_TORCH_COMPILE``; whoever measures it eager sets it before.
"""

import torch
from torch import Tensor, nn

from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi


class ReferenceMoshi:
    """The reference's codec and language model over ``slots`` conversations, stepped as its server steps them."""

    def __init__(self, mimi: Mimi, lm: LanguageModel, slots: int) -> None:
        from moshi.models.lm import LMGen

        self.encoder = reference_mimi(mimi)
        self.decoder = reference_mimi(mimi)
        self.generator = LMGen(reference_language_model(lm), support_out_of_sync=True)
        for part in (self.encoder, self.decoder, self.generator):
            part.streaming_forever(slots)

    def encode(self, audio: Tensor) -> Tensor:
        """Codes ``[B, 8, 1]`` of the next frame ``[B, 1, 1920]``."""
        codes: Tensor = self.encoder.encode(audio)
        return codes

    def generate(self, codes: Tensor) -> Tensor:
        """Text and own codes ``[B, 9, 1]`` after hearing ``codes [B, 8, 1]``."""
        tokens: Tensor = self.generator.step(codes)
        return tokens

    def decode(self, codes: Tensor) -> Tensor:
        """Audio ``[B, 1, 1920]`` of ``codes [B, 8, 1]``."""
        audio: Tensor = self.decoder.decode(codes)
        return audio

    @torch.inference_mode()
    def step(self, audio: Tensor) -> Tensor:
        """One frame in, one out, ``[B, 1, 1920]``."""
        tokens = self.generate(self.encode(audio))
        return self.decode(tokens[:, 1:].clamp(min=0))


def reference_mimi(mimi: Mimi) -> nn.Module:
    """A copy of the codec in the reference's classes."""
    from moshi.models.compression import MimiModel
    from moshi.modules import SEANetDecoder, SEANetEncoder, transformer
    from moshi.quantization import SplitResidualVectorQuantizer

    config = mimi.config
    dim = config.seanet.dimension
    seanet = {
        "channels": 1,
        "dimension": dim,
        "causal": True,
        "n_filters": config.seanet.n_filters,
        "n_residual_layers": 1,
        "kernel_size": config.seanet.kernel_size,
        "residual_kernel_size": config.seanet.residual_kernel_size,
        "last_kernel_size": config.seanet.last_kernel_size,
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
    encoder = SEANetEncoder(**seanet)
    model = MimiModel(
        encoder,
        SEANetDecoder(**seanet),
        SplitResidualVectorQuantizer(
            dimension=config.codebook_dim, n_q=config.n_q, bins=config.bins, input_dimension=dim, output_dimension=dim
        ),
        channels=1,
        sample_rate=24_000,
        frame_rate=12.5,
        encoder_frame_rate=24_000 / encoder.hop_length,
        causal=True,
        resample_method="conv",
        encoder_transformer=transformer.ProjectedTransformer(**attention),
        decoder_transformer=transformer.ProjectedTransformer(**attention),
    )
    model.load_state_dict(mimi.state_dict())
    model.set_num_codebooks(mimi.codebooks)
    frozen: nn.Module = model.eval().requires_grad_(False)
    return frozen


def reference_language_model(lm: LanguageModel, device: torch.device | str = "cpu") -> nn.Module:
    """The language model in the reference's classes, over the same weights and of the same dtype."""
    from moshi.models.lm import LMModel

    config = lm.config
    with torch.device("meta"):
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
    weights = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in lm.state_dict().items()}
    model.load_state_dict(weights, assign=True)  # laid out as published, whatever we have made of it
    frozen: nn.Module = model.to(device).eval().requires_grad_(False)
    return frozen
