"""``denwa model info``: what a checkpoint is and what it takes to run it, from its names and shapes alone.

No tensor is read and no memory of the device is used: the modules and the state of a slot are built on the meta device.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig
from model_runtime.checkpoint.config_file import CheckpointConfig
from model_runtime.checkpoint.files import locate
from model_runtime.checkpoint.loading import RANDOM_TINY, check_codec, check_language_model
from model_runtime.errors import CheckpointError
from model_runtime.state import slot_tensors

_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "temporal transformer": ("transformer.", "out_norm."),
    "depth transformer": ("depformer",),
    "embeddings": ("emb.", "text_emb."),
    "heads": ("text_linear.", "linears.", "extra_heads."),
}
_KEPT_FREE: Final = 0.1
"""Part of the device's free memory that activations and the allocator may need."""


@dataclass(frozen=True)
class Footprint:
    """What a model takes on a device, in bytes."""

    weights: int
    cache: int
    """Keys and values of one slot, with its full context."""
    codec_state: int
    """What Mimi remembers of one slot."""

    @property
    def slot(self) -> int:
        """All that one more slot takes."""
        return self.cache + self.codec_state

    def slots(self, free: int) -> int:
        """Slots that fit into so much free memory, some of which is kept for activations."""
        return max(0, int(free * (1 - _KEPT_FREE) - self.weights) // self.slot)


def info(reference: str, device: str | None = None, dtype: str | None = None) -> str:
    """The shapes, parameters and memory of a checkpoint, as lines; raises ``CheckpointError`` where it cannot load.

    ``device`` and ``dtype`` are those of ``place``.
    """
    return _info(reference, *place(device, dtype))


def place(device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Where and as what a model runs: by default in bfloat16 on a GPU where there is one, else in float32 on the CPU.

    Raises ``CheckpointError`` where torch has no such device.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_device(where)
    kind = getattr(torch, dtype or ("float32" if where.type == "cpu" else "bfloat16"))
    assert isinstance(kind, torch.dtype), kind
    return where, kind


def _info(reference: str, device: torch.device, dtype: torch.dtype) -> str:
    config, lm, mimi, files = _shapes(reference)
    parts, codec, footprint = _measure(lm, mimi, config.codebooks, dtype)
    size = torch.empty((), dtype=dtype).element_size()
    lines = [f"checkpoint  {reference} ({config.model_type})"]
    lines += [f"file        {file.name}, {_bytes(file.stat().st_size)}" for file in files]
    lines += [
        f"temporal    {lm.num_layers} layers of {lm.dim}, {lm.num_heads} heads{_shared(lm.kv_repeat)}, "
        f"{lm.context} steps of context ({lm.context * 0.08:.0f} s)",
        f"depth       {lm.depformer_num_layers} layers of {lm.depformer_dim}, {lm.depformer_num_heads} heads, "
        f"{lm.dep_q} steps, {lm.depth_sets} sets of weights"
        if lm.dep_q
        else "depth       none: it listens and writes",
        f"streams     text of {lm.text_card}, {lm.dep_q} own and {lm.n_q - lm.dep_q} user codes of {lm.card}",
        f"delays      {' '.join(map(str, lm.delays))}",
        f"Mimi        {mimi.n_q} codebooks of {mimi.bins}, {config.codebooks} in use",
        "",
        f"{'part':<22}{'parameters':>16}{str(dtype).removeprefix('torch.'):>14}",
    ]
    lines += [f"{name:<22}{count:>16,}{_bytes(count * size):>14}" for name, count in parts.items()]
    lines.append(f"{'language model':<22}{sum(parts.values()):>16,}{_bytes(sum(parts.values()) * size):>14}")
    lines.append(f"{'Mimi (float32)':<22}{codec:>16,}{_bytes(4 * codec):>14}")
    free = free_memory(device)
    lines += [
        "",
        f"per slot    {_bytes(footprint.cache)} keys and values, {_bytes(footprint.codec_state)} Mimi",
        f"fit         {footprint.slots(free)} slots on {device}, which has {_bytes(free)} free",
    ]
    return "\n".join(lines)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def check_device(device: torch.device) -> None:
    """Raise ``CheckpointError`` where torch has no such device."""
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CheckpointError(
            f"device {device}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise CheckpointError(f"device {device}: torch {torch.__version__} sees none")


def _shapes(reference: str) -> tuple[CheckpointConfig, LanguageModelConfig, MimiConfig, list[Path]]:
    if reference == RANDOM_TINY:
        from model_runtime.tiny import TINY_LM, TINY_MIMI

        return CheckpointConfig(TINY_LM), TINY_LM, TINY_MIMI, []
    checkpoint = locate(reference)
    files = [checkpoint.language_model()]
    lm = check_language_model(checkpoint)
    if checkpoint.given is None:
        files += [checkpoint.codec(), checkpoint.tokenizer()]
        check_codec(checkpoint)
        return checkpoint.config, lm, checkpoint.codec_config(), files
    return checkpoint.config, lm, MimiConfig(), files


def _measure(
    lm_config: LanguageModelConfig, mimi_config: MimiConfig, codebooks: int, dtype: torch.dtype
) -> tuple[dict[str, int], int, Footprint]:
    """Parameters of the language model by part, of Mimi with its codebooks, and the memory of both."""
    from model_runtime.lm.language_model import LanguageModel
    from model_runtime.mimi.codec import Mimi

    with torch.device("meta"):
        lm, mimi = LanguageModel(lm_config).to(dtype), Mimi(mimi_config, codebooks)
    tensors = lm.state_dict()
    parts = {
        part: sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(prefixes))
        for part, prefixes in _PARTS.items()
    }
    codec = sum(tensor.numel() for tensor in mimi.state_dict().values())
    weights = _memory(tensors.values()) + _memory((*mimi.parameters(), *mimi.buffers()))
    cache = _memory(slot_tensors(lm.new_state(1)))
    codec_state = _memory((*slot_tensors(mimi.new_encoder_state(1)), *slot_tensors(mimi.new_decoder_state(1))))
    return parts, codec, Footprint(weights, cache, codec_state)


def _memory(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _shared(kv_repeat: int) -> str:
    return "" if kv_repeat == 1 else f" ({kv_repeat} share keys and values)"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"
