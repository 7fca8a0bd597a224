"""``denwa model info``: what a checkpoint is and what it takes to run it, from its names and shapes alone.

No tensor is read and no memory of the device is used: the modules and the state of a slot are built on the meta device.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from config.audio import FRAME_S
from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig
from model_runtime.checkpoint.config_file import CheckpointConfig
from model_runtime.checkpoint.files import locate
from model_runtime.checkpoint.loading import (
    RANDOM_STT,
    RANDOM_TINY,
    check_codec,
    check_language_model,
    language_model_on_meta,
)
from model_runtime.checkpoint.quantized import SUFFIX
from model_runtime.errors import CheckpointError
from model_runtime.state import slot_tensors

if TYPE_CHECKING:
    from model_runtime.lm.language_model import LanguageModel

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


def info(
    reference: str,
    device: str | None = None,
    dtype: str | None = None,
    *,
    int8_weights: bool = False,
    int8_cache: bool = False,
) -> str:
    """The shapes, parameters and memory of a checkpoint, as lines; raises ``CheckpointError`` where it cannot load.

    ``device`` and ``dtype`` are those of ``place``, the rest those of ``load_language_model``.
    """
    where, kind = place(device, dtype)
    config, lm, mimi, files = _shapes(reference)
    meta = language_model_on_meta(lm, int8_weights=int8_weights, int8_cache=int8_cache).to(kind)
    return "\n".join(
        (*_described(reference, config, lm, mimi, files), "", *_needs(meta, mimi, config.codebooks, where))
    )


def place(device: str | None, dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Where and as what a model runs: by default in bfloat16 on a GPU where there is one, else in float32 on the CPU.

    Raises ``CheckpointError`` where torch has no such device.
    """
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise CheckpointError(f"device {device}: {str(error).splitlines()[0]}") from error
    check_device(where)
    kind = getattr(torch, dtype or ("float32" if where.type == "cpu" else "bfloat16"))
    assert isinstance(kind, torch.dtype), kind
    return where, kind


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
    if reference == RANDOM_STT:
        from model_runtime.tiny import TINY_MIMI, TINY_STT

        return CheckpointConfig(TINY_STT, "stt"), TINY_STT, TINY_MIMI, []
    checkpoint = locate(reference)
    files = [checkpoint.language_model()]
    lm = check_language_model(checkpoint)
    if checkpoint.given is None:
        files += [checkpoint.codec(), checkpoint.tokenizer()]
        check_codec(checkpoint)
        return checkpoint.config, lm, checkpoint.codec_config(), files
    return checkpoint.config, lm, MimiConfig(), files


def _described(
    reference: str, config: CheckpointConfig, lm: LanguageModelConfig, mimi: MimiConfig, files: list[Path]
) -> Iterator[str]:
    yield f"checkpoint  {reference} ({config.model_type})"
    for file in files:
        yield f"file        {file.name}, {_bytes(file.stat().st_size)}"
    shared = "" if lm.kv_repeat == 1 else f" ({lm.kv_repeat} share keys and values)"
    seconds = lm.context * FRAME_S
    yield (
        f"temporal    {lm.num_layers} layers of {lm.dim}, {lm.num_heads} heads{shared}, "
        f"{lm.context} steps of context ({seconds:.0f} s)"
    )
    if lm.dep_q:
        yield (
            f"depth       {lm.depformer_num_layers} layers of {lm.depformer_dim}, {lm.depformer_num_heads} heads, "
            f"{lm.dep_q} steps, {lm.depth_sets} sets of weights"
        )
    else:
        yield "depth       none: it listens and writes"
    yield f"streams     text of {lm.text_card}, {lm.dep_q} own and {lm.n_q - lm.dep_q} user codes of {lm.card}"
    yield f"delays      {' '.join(map(str, lm.delays))}"
    yield f"Mimi        {mimi.n_q} codebooks of {mimi.bins}, {config.codebooks} in use"


def _needs(lm: "LanguageModel", mimi_config: MimiConfig, codebooks: int, device: torch.device) -> Iterator[str]:
    """Parameters and memory by part, memory of a slot, and the slots that fit."""
    from model_runtime.mimi.codec import Mimi

    with torch.device("meta"):
        mimi = Mimi(mimi_config, codebooks)
    tensors = lm.state_dict()
    yield f"{'part':<22}{'parameters':>16}{'memory':>12}"
    for part, prefixes in _PARTS.items():
        yield _row(part, {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)})
    yield _row("language model", tensors)
    yield _row("Mimi", mimi.state_dict())
    footprint = Footprint(
        weights=_memory(tensors.values()) + _memory((*mimi.parameters(), *mimi.buffers())),
        cache=_memory(slot_tensors(lm.new_state(1))),
        codec_state=_memory((*slot_tensors(mimi.new_encoder_state(1)), *slot_tensors(mimi.new_decoder_state(1)))),
    )
    free = free_memory(device)
    yield ""
    yield f"per slot    {_bytes(footprint.cache)} keys and values, {_bytes(footprint.codec_state)} Mimi"
    yield f"fit         {footprint.slots(free)} slots on {device}, which has {_bytes(free)} free"


def _row(part: str, tensors: Mapping[str, Tensor]) -> str:
    count = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith(SUFFIX))
    return f"{part:<22}{count:>16,}{_bytes(_memory(tensors.values())):>12}"


def _memory(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count} B"
