"""Trained models as checkpoints: the files that ``model_runtime.checkpoint`` and the reference package read.

Runs in the training process, at the end or on a copy of its tensors.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig
from model_runtime.checkpoint.config_file import LoraConfig
from model_runtime.checkpoint.files import Checkpoint, Folder, HubRepository
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.training.lora import LowRank, adapters, merged

Style = Literal["parts", "fused"]
"""Names of attention's adapters: a key per set (``in_projs.0.lora_A.weight``), or all sets in one (``in_proj``)."""
MODEL: Final = "model.safetensors"
ADAPTERS: Final = "lora.safetensors"
CODEC: Final = "mimi.safetensors"
CODEC_CONFIG: Final = "mimi.json"
TOKENIZER: Final = "tokenizer.model"


def export_language_model(
    lm: LanguageModel, folder: Path, keys: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """Write the whole model, adapters merged: ``model.safetensors`` and ``config.json``.

    ``keys`` are those of the config.json it came from; without them the shape alone is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save({name: tensor.to(dtype) for name, tensor in merged(lm).items()}, folder / MODEL)
    kept = {key: value for key, value in (keys or {}).items() if not key.startswith("lora")}
    _write_config(folder, {**language_model_keys(lm.config), **kept, "moshi_name": MODEL})
    return folder


def export_adapters(
    lm: LanguageModel,
    folder: Path,
    keys: Mapping[str, Any],
    config: LoraConfig,
    style: Style = "parts",
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write ``lora.safetensors`` and a ``config.json`` that puts it on top of the checkpoint that ``keys`` describe.

    Embeddings that were trained with the adapters are in the same file, whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, adapter in adapters(lm):
        tensors |= _adapter_tensors(name, adapter, style)
    for name, parameter in lm.named_parameters():
        if parameter.requires_grad and ".lora." not in name and "_lora." not in name:
            tensors[name] = parameter
    _save({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / ADAPTERS)
    lora = {"lora": True, "lora_rank": config.rank, "lora_scaling": config.scaling, "lora_name": ADAPTERS}
    _write_config(folder, {**keys, **lora})
    return folder


def export_mimi(mimi: Mimi, folder: Path) -> Path:
    """Write the codec: ``mimi.safetensors`` (float32, as it is served) and ``mimi.json``.

    ``config.json`` gets their names, beside what is in it already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save({name: tensor for name, tensor in mimi.state_dict().items()}, folder / CODEC)
    (folder / CODEC_CONFIG).write_text(json.dumps(mimi_keys(mimi.config), indent=2) + "\n")
    _write_config(folder, {**_read_config(folder), "mimi_name": CODEC, "mimi_config_name": CODEC_CONFIG})
    return folder


def export_tokenizer(tokenizer: Path, folder: Path) -> Path:
    """Copy the text tokenizer beside the model and name it in ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, folder / TOKENIZER)
    _write_config(folder, {**_read_config(folder), "tokenizer_name": TOKENIZER})
    return folder


def config_keys(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config.json of a checkpoint, with the names of its files such that they are found from any folder."""
    repository = checkpoint.repository
    keys: dict[str, Any] = {}
    given = repository.optional("config.json")
    if given is not None:
        keys = json.loads(given.read_bytes())
    config = checkpoint.config
    names = {"moshi_name": config.moshi_name, "mimi_name": config.mimi_name, "tokenizer_name": config.tokenizer_name}
    if config.mimi_config_name is not None:
        names["mimi_config_name"] = config.mimi_config_name
    for key, name in names.items():
        if name.startswith(("hf://", "file://")):
            keys[key] = name
        elif isinstance(repository, Folder):
            keys[key] = f"file://{(repository.path / name).resolve()}"
        elif isinstance(repository, HubRepository):
            keys[key] = f"{repository}/{name}"
    if checkpoint.given is not None:
        keys["moshi_name"] = f"file://{checkpoint.given.resolve()}"
    return keys


def language_model_keys(config: LanguageModelConfig) -> dict[str, Any]:
    """The keys of a config.json that tell a language model's shape."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def mimi_keys(config: MimiConfig) -> dict[str, Any]:
    """The keys of a ``mimi_config_name`` file, as ``read_mimi_config`` reads them."""
    dim = config.seanet.dimension
    quantizer = {"dimension": config.codebook_dim, "bins": config.bins, "n_q": config.n_q}
    transformer = {
        "d_model": dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "dim_feedforward": config.dim_feedforward,
        "context": config.context,
        "max_period": config.max_period,
    }
    return {
        "sample_rate": 24_000,
        "channels": 1,
        "frame_rate": 12.5,
        "seanet": {**asdict(config.seanet), "ratios": list(config.seanet.ratios)},
        "transformer": transformer,
        "quantizer": {**quantizer, "input_dimension": dim, "output_dimension": dim},
    }


def _adapter_tensors(name: str, adapter: LowRank, style: Style) -> dict[str, Tensor]:
    """The published keys of the adapter of the weight ``name``."""
    down, up = adapter.down.detach(), adapter.up.detach()
    for side in ("in", "out"):
        leaf = "in_proj_weight" if side == "in" else "out_proj.weight"
        if not name.endswith(f"self_attn.{leaf}"):
            continue
        module = name.removesuffix(leaf)
        if style == "fused":
            return {f"{module}{side}_proj.lora_A.weight": down, f"{module}{side}_proj.lora_B.weight": up}
        parts = enumerate(zip(down.chunk(adapter.sets), up.chunk(adapter.sets), strict=True))
        return {
            f"{module}{side}_projs.{k}.lora_{letter}.weight": tensor
            for k, pair in parts
            for letter, tensor in zip("AB", pair, strict=True)
        }
    module = name.removesuffix(".weight")
    return {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write beside, then rename: whoever reads finds the old file or the new one."""
    beside = path.with_suffix(".partial")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, beside)
    beside.replace(path)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    keys: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return keys


def _write_config(folder: Path, keys: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(dict(keys), indent=2) + "\n")
