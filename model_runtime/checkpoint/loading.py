"""From files to models: every tensor read on its own, cast and moved straight to where it is used.

Modules are built on the meta device, so that nothing is ever filled twice. Called by whoever owns the model, before its
engine starts; nothing here runs while calls do.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.checkpoint.files import Checkpoint, locate
from model_runtime.checkpoint.lora import Adapters
from model_runtime.checkpoint.names import Stored, beyond, collect, family, generated_streams
from model_runtime.checkpoint.quantized import SUFFIX, dequantize
from model_runtime.checkpoint.tensor_file import TensorFile, open_tensors
from model_runtime.errors import CheckpointError

if TYPE_CHECKING:  # these modules import this package's config
    from model_runtime.lm.language_model import LanguageModel
    from model_runtime.mimi.codec import Mimi
    from model_runtime.moshi import Moshi
    from model_runtime.text import TextTokenizer

_PAD, _EOS = 3, 2


def load_language_model(
    path: str | Path | Checkpoint,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> "LanguageModel":
    """The language model of a checkpoint, ready to step.

    ``path`` is a folder, a file of weights, or ``hf://owner/name``. int8 matrices become ``dtype``. Raises
    ``CheckpointError``, which names every tensor at fault.
    """
    from model_runtime.lm.language_model import LanguageModel

    checkpoint = path if isinstance(path, Checkpoint) else locate(path)
    file = open_tensors(checkpoint.language_model())
    adapters_path = checkpoint.adapters()
    adapters = None
    if adapters_path is not None and checkpoint.config.lora is not None:
        adapters = Adapters(open_tensors(adapters_path), checkpoint.config.lora)
    config = language_model_config(checkpoint, file)
    with torch.device("meta"):
        lm = LanguageModel(config)
    _fill(lm, _language_model_tensors(file, config), file, torch.device(device), dtype, adapters)
    if checkpoint.config.model_type == "hibiki":
        # A translation must not end before its source does: the reference reads EOS as padding.
        lm.text_emb.weight.data[_EOS] = lm.text_emb.weight.data[_PAD]
    return lm.eval().requires_grad_(False)


def load_mimi(
    path: str | Path | Checkpoint, device: str | torch.device = "cpu", codebooks: int | None = None
) -> "Mimi":
    """The codec of a checkpoint, or of a file of its own, in float32.

    It reads and writes the first ``codebooks``, by default as many as the checkpoint's language model speaks. Raises
    ``CheckpointError``, which names every tensor at fault.
    """
    from model_runtime.mimi.codec import Mimi

    checkpoint = path if isinstance(path, Checkpoint) else locate(path)
    file = open_tensors(checkpoint.codec())
    config = checkpoint.codec_config()
    wanted = checkpoint.config.codebooks if codebooks is None else codebooks
    if not 2 <= wanted <= config.n_q:
        raise CheckpointError(f"{file.path}: the codec has {config.n_q} codebooks, {wanted} are asked for")
    _expect(file, "codec")
    with torch.device("meta"):
        mimi = Mimi(config, wanted)
    _fill(mimi, collect(file.shapes), file, torch.device(device), torch.float32, None)
    return mimi.eval().requires_grad_(False)


def load_moshi(
    path: str | Path, device: str | torch.device, dtype: torch.dtype, slots: int
) -> "tuple[Moshi, TextTokenizer]":
    """All that answers calls: codec, language model and state of ``slots`` conversations, and the text tokenizer.

    Raises ``CheckpointError``, also where the model only listens.
    """
    from model_runtime.moshi import Moshi
    from model_runtime.text import TextTokenizer

    checkpoint = locate(path)
    if checkpoint.given is not None:
        raise CheckpointError(f"{path}: this is one file; the folder of the whole checkpoint is needed")
    if not checkpoint.config.lm.dep_q:
        raise CheckpointError(f"{path}: a speech-to-text model; it listens and cannot answer")
    tokenizer = TextTokenizer(checkpoint.tokenizer())  # first: what is small fails fast
    mimi = load_mimi(checkpoint, device)
    lm = load_language_model(checkpoint, device, dtype)
    if tokenizer.vocab_size > lm.config.text_card:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} pieces, the language model {lm.config.text_card}"
        )
    return Moshi(mimi, lm, slots), tokenizer


def language_model_config(checkpoint: Checkpoint, file: TensorFile) -> LanguageModelConfig:
    """The shape of a checkpoint's language model, with the extra heads that its file has and its config leaves out."""
    _expect(file, "language model")
    heads = [shape for key, shape in file.shapes.items() if key.startswith("extra_heads.") and key.endswith(".weight")]
    config = checkpoint.config.lm
    if heads and not config.extra_heads_num_heads:
        return replace(config, extra_heads_num_heads=len(heads), extra_heads_dim=heads[0][0])
    return config


def _expect(file: TensorFile, wanted: str) -> None:
    holds = family(collect(file.shapes))
    if holds != wanted:
        raise CheckpointError(f"{file.path}: a {wanted} is needed, this file holds {holds}")


def _language_model_tensors(file: TensorFile, config: LanguageModelConfig) -> dict[str, Stored]:
    """The tensors that the model has; the depth steps beyond those it takes are left out of a file that has all."""
    found = collect(file.shapes)
    if not config.dep_q < generated_streams(found) == config.n_q:
        return found
    kept = {name: stored for name, stored in found.items() if not beyond(name, config.dep_q, config.depth_sets)}
    for name, stored in kept.items():
        if name.startswith("depformer.") and not stored.whole:
            kept[name] = Stored({part: key for part, key in stored.keys.items() if part < config.depth_sets})
        elif name.startswith("depformer.") and ".self_attn." in name:
            kept[name] = Stored(stored.keys, shortened=True)
    return kept


def _fill(
    module: nn.Module,
    found: Mapping[str, Stored],
    file: TensorFile,
    device: torch.device,
    dtype: torch.dtype,
    adapters: Adapters | None,
) -> None:
    """Give a module on the meta device its tensors; raises ``CheckpointError`` with every fault before it reads any."""
    wanted: dict[str, Tensor] = module.state_dict()
    faults = _faults(wanted, found, file)
    if adapters is not None:
        faults += [f"{adapters.file.path}: {fault}" for fault in adapters.faults(_shapes(wanted))]
        if any(name.endswith(SUFFIX) for name in found):
            faults.append("adapters cannot be merged into int8 weights: take the unquantized checkpoint")
    if faults:
        raise CheckpointError(f"{file.path}: does not fit its model:\n  " + "\n  ".join(faults))
    reader = _Reader(file, found, device, dtype, adapters)
    try:
        state: dict[str, Tensor] = {}
        for name, meta in wanted.items():
            if name not in state:
                state |= reader.tensors(name, meta, wanted)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(f"{file.path}: does not fit into the memory of {device}: {error}") from error
    module.load_state_dict(state, assign=True)
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not left, left


def _shapes(wanted: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in wanted.items()}


def _faults(wanted: Mapping[str, Tensor], found: Mapping[str, Stored], file: TensorFile) -> list[str]:
    """Every tensor that is missing, unexpected, there twice, or of another shape or type than the module's."""
    missing = [name for name in wanted if name not in found and not name.endswith(SUFFIX)]
    unexpected = [
        name
        for name in found
        if name not in wanted and not (name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in wanted)
    ]
    faults = []
    if missing:
        faults.append(f"missing ({len(missing)}): {', '.join(missing)}")
    if unexpected:
        keys = [key for name in unexpected for key in found[name].ordered()]
        faults.append(f"unexpected ({len(keys)}): {', '.join(keys)}")
    for name, stored in found.items():
        if name in unexpected:
            continue
        if doubtful := stored.faults(name):
            faults += doubtful
            continue
        shapes = [file.shapes[key] for key in stored.ordered()]
        scales = name.endswith(SUFFIX)
        base = wanted[name.removesuffix(SUFFIX)]
        need = tuple(base.shape[:1] if scales else base.shape)
        have = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()
        longer = stored.shortened and have[0] > need[0] and have[1:] == need[1:]
        if (have != need and not longer) or any(shape[1:] != shapes[0][1:] for shape in shapes):
            faults.append(f"misshapen: {name} is {list(have)}, {list(need)} is needed")
        is_int8 = file.dtype(stored.ordered()[0]) == torch.int8
        if is_int8 and name + SUFFIX not in found:
            faults.append(f"missing (1): {name}{SUFFIX}, the scales of the int8 {name}")
        if scales and file.dtype(stored.ordered()[0]) != torch.float32:
            faults.append(f"{name}: float32 is needed, it is {file.dtype(stored.ordered()[0])}")
    return faults


class _Reader:
    """Reads the tensors of one model from its file and, where they have some, their adapters."""

    def __init__(
        self,
        file: TensorFile,
        found: Mapping[str, Stored],
        device: torch.device,
        dtype: torch.dtype,
        adapters: Adapters | None,
    ) -> None:
        self._file = file
        self._found = found
        self._device = device
        self._dtype = dtype
        self._adapters = adapters

    def tensors(self, name: str, meta: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module's tensor ``name`` where and as it is used; an int8 one with its scales."""
        scales = name + SUFFIX
        if name.endswith(SUFFIX):
            return {}  # comes with its matrix
        rows = meta.shape[0]
        if scales in wanted:
            if scales in self._found:
                return {
                    name: self._read(name, meta.shape, torch.int8),
                    scales: self._read(scales, torch.Size([rows]), torch.float32),
                }
            from model_runtime.kernels.int8 import quantize_rows

            matrix, scb = quantize_rows(self._merged(name, meta))
            return {name: matrix, scales: scb}
        if scales in self._found:
            matrix = self._read(name, meta.shape, torch.int8)
            scb = self._read(scales, torch.Size([rows]), torch.float32)
            return {name: dequantize(matrix, scb, self._dtype)}
        return {name: self._merged(name, meta).to(self._dtype)}

    def _merged(self, name: str, meta: Tensor) -> Tensor:
        """A floating tensor in the run's type, or exact in float32 where an adapter is still to be added."""
        adapters = self._adapters
        if adapters is None:
            return self._read(name, meta.shape, self._dtype)
        if name in adapters.replacing:
            reader = _Reader(adapters.file, adapters.replacing, self._device, self._dtype, None)
            return adapters.add(name, reader._read(name, meta.shape, torch.float32))
        if adapters.touches(name):
            return adapters.add(name, self._read(name, meta.shape, torch.float32))
        return self._read(name, meta.shape, self._dtype)

    def _read(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A tensor from its keys, one below the other; mapped where nothing about it changes."""
        stored = self._found[name]
        keys = stored.ordered()
        first = self._file.dtype(keys[0])
        if self._device.type == "cpu" and len(keys) == 1 and first == dtype and self._file.shapes[keys[0]] == shape:
            return self._file.map(keys[0])
        out = torch.empty(shape, device=self._device, dtype=dtype)
        start = 0
        for key in keys:
            rows = min(self._file.shapes[key][0], len(out) - start)
            self._file.copy(key, out[start : start + rows])
            start += rows
        return out
