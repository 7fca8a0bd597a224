"""Small random checkpoints in a folder, as the reference package writes and reads them."""

import json
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model_runtime.tiny import TOKENIZER

MIMI_CONFIG: Final[dict[str, Any]] = {
    "sample_rate": 24_000,
    "channels": 1,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1,
        "dimension": 32,
        "causal": True,
        "n_filters": 4,
        "n_residual_layers": 1,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "pad_mode": "constant",
        "ratios": [8, 6, 5, 4],
    },
    "quantizer": {"dimension": 16, "n_q": 8, "bins": 64, "input_dimension": 32, "output_dimension": 32},
    "transformer": {
        "d_model": 32,
        "num_heads": 4,
        "num_layers": 2,
        "causal": True,
        "layer_scale": 0.01,
        "context": 10,
        "conv_layout": True,
        "max_period": 10_000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 48,
        "input_dimension": 32,
        "output_dimensions": [32],
    },
}
MOSHI: Final[dict[str, Any]] = {
    "dim": 64,
    "text_card": 320,
    "existing_text_padding_id": 3,
    "n_q": 16,
    "dep_q": 8,
    "card": 64,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 12,
    "max_period": 10_000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 32,
    "depformer_dim_feedforward": 132,
    "depformer_num_heads": 4,
    "depformer_num_layers": 2,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10_000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, *[0, 1, 1, 1, 1, 1, 1, 1] * 2],
}
"""Every key that a published config.json of a Moshi has, at a small size."""
PERSONAPLEX: Final = MOSHI | {"dep_q": 16, "depformer_context": 16}
STT: Final = MOSHI | {
    "dep_q": 0,
    "n_q": 8,
    "delays": [0] * 9,
    "max_period": 100_000.0,
    "extra_heads_num_heads": 4,
    "extra_heads_dim": 6,
    "conditioners": {},
    "fuser": {"cross_attention_pos_emb": False, "sum": [], "prepend": [], "cross": []},
    "cross_attention": False,
}
NEWER: Final = MOSHI | {
    "kv_repeat": 2,
    "depformer_weights_per_step_schedule": [0, 1, 2, 2, 2, 3, 3, 3],
    "depformer_low_rank_embeddings": 8,
    "depformer_norm": "layer_norm",
    "demux_second_stream": False,
}
_FUSER: Final = {"cross_attention_pos_emb": False, "cross_attention_pos_emb_scale": 1, "prepend": [], "cross": []}
_QUALITY: Final = ["very_bad", "bad", "neutral", "good", "very_good"]
HIBIKI: Final = NEWER | {
    "conditioners": {
        "description": {
            "type": "lut",
            "lut": {"n_bins": 31, "dim": 16, "tokenizer": "noop", "possible_values": _QUALITY},
        }
    },
    "fuser": {**_FUSER, "sum": ["description"]},
}
HALVES: Final = MOSHI | {"positional_embedding": "rope_concat", "norm": "layer_norm", "text_card_out": 300}


def reference_lm(keys: Mapping[str, Any], seed: int = 1) -> nn.Module:
    """The reference's model of a config.json with random weights of a lively scale, in float32."""
    from moshi.models.loaders import get_moshi_lm

    model = get_moshi_lm(None, dict(keys), "cpu", torch.float32)
    _randomise(model, seed)
    return model.requires_grad_(False)


def reference_mimi(seed: int = 2) -> nn.Module:
    """The reference's codec with random weights."""
    from moshi.models.loaders import get_mimi

    model = get_mimi(None, MIMI_CONFIG)
    _randomise(model, seed)
    random = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("embedding_sum"):
            buffer.copy_(torch.randn(buffer.shape, generator=random))
        elif name.endswith("cluster_usage"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=random))
        elif name.endswith("_initialized"):
            buffer.fill_(1)
    return model.requires_grad_(False)


def fused(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published style of a state dict that the reference's classes write: one matrix for all steps."""
    names = {"in": "in_proj_weight", "out": "out_proj.weight"}
    return _joined(weights, r"(.*self_attn\.)(in|out)_projs\.(\d+)\.weight(.*)", lambda m: m[1] + names[m[2]] + m[4])


def fused_adapters(adapters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapters whose matrices of all steps stand one below the other, as older code wrote them."""
    return _joined(adapters, r"(.*self_attn\.)(in|out)_projs\.(\d+)\.(.*)", lambda m: f"{m[1]}{m[2]}_proj.{m[4]}")


def _joined(tensors: Mapping[str, Tensor], pattern: str, name: Callable[[re.Match[str]], str]) -> dict[str, Tensor]:
    parts: dict[str, dict[int, Tensor]] = {}
    out = {}
    for key, tensor in tensors.items():
        if match := re.fullmatch(pattern, key):
            parts.setdefault(name(match), {})[int(match[3])] = tensor
        else:
            out[key] = tensor
    return out | {key: torch.cat([each[k] for k in sorted(each)]) for key, each in parts.items()}


def write(
    folder: Path,
    weights: Mapping[str, Tensor],
    keys: Mapping[str, Any] | None,
    *,
    mimi: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint's folder: weights, a config.json of ``keys``, and with ``mimi`` a codec and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    if keys is not None:
        names = {"mimi_name": "mimi.safetensors", "mimi_config_name": "mimi.json", "tokenizer_name": "text.model"}
        write_config(folder, {**keys, **(names if mimi is not None else {})})
    if mimi is not None:
        save_file({name: tensor.contiguous() for name, tensor in mimi.items()}, folder / "mimi.safetensors")
        write_codec_config(folder)
        shutil.copy(TOKENIZER, folder / "text.model")
    return folder


def write_config(folder: Path, keys: Mapping[str, Any]) -> None:
    """Write a config.json."""
    (folder / "config.json").write_text(json.dumps(dict(keys)))


def write_codec_config(folder: Path) -> Path:
    """Write the small codec's shape."""
    path = folder / "mimi.json"
    path.write_text(json.dumps(MIMI_CONFIG))
    return path


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a bfloat16 file of any size that takes no room on the disk: all of its numbers are holes."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@torch.no_grad()
def _randomise(module: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        drawn = torch.randn(parameter.shape, generator=random)
        if parameter.squeeze().dim() < 2:
            parameter.copy_(0.5 + 0.2 * drawn)
        else:
            parameter.copy_(drawn / parameter[0].numel() ** 0.5)
