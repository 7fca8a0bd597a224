"""From files to models: every tensor read on its own, cast and moved straight to where it is used.

Modules are built on the meta device, so that nothing is ever filled twice. Called by whoever owns the model, before its
engine starts; nothing here runs while calls do.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from model_runtime.checkpoint.condition import PREFIX
from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.checkpoint.files import Checkpoint, locate
from model_runtime.checkpoint.filling import Filling
from model_runtime.checkpoint.lora import Adapters
from model_runtime.checkpoint.names import Family, Stored, beyond, collect, family, generated_streams
from model_runtime.checkpoint.tensor_file import TensorFile, open_tensors
from model_runtime.errors import CheckpointError

if TYPE_CHECKING:  # these modules import this package's config
    from model_runtime.listener import Listener
    from model_runtime.lm.language_model import LanguageModel
    from model_runtime.mimi.codec import Mimi
    from model_runtime.moshi import Moshi
    from model_runtime.text import TextTokenizer

RANDOM_TINY: Final = "random:tiny"
RANDOM_STT: Final = "random:stt"
_PAD, _EOS = 3, 2
_MOST_DELAY_S: Final = 60.0


def load_language_model(
    path: str | Path | Checkpoint,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    *,
    int8_weights: bool = False,
    int8_cache: bool = False,
) -> "LanguageModel":
    """The language model of a checkpoint, ready to step.

    ``path`` is whatever ``locate`` knows. An int8 file's matrices become ``dtype``, but with ``int8_weights`` they stay
    as they are, and another's are quantised; with ``int8_cache`` slots keep their keys and values in int8. Raises
    ``CheckpointError``, which names every tensor at fault.
    """
    checkpoint = path if isinstance(path, Checkpoint) else locate(path)
    file = open_tensors(checkpoint.language_model())
    config = _language_model_config(checkpoint, file)
    lm = language_model_on_meta(config, int8_weights=int8_weights, int8_cache=int8_cache)
    Filling(lm, file, _language_model_tensors(checkpoint, file, config), _adapters(checkpoint)).fill(
        torch.device(device), dtype
    )
    if checkpoint.config.condition is not None:
        vector = checkpoint.config.condition.vector(file, collect(file.shapes), config.dim)
        rows = lm.text_emb.weight
        lm.text_emb.weight = torch.nn.Parameter((rows.float() + vector.to(rows.device)).to(rows.dtype))
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
    Filling(mimi, file, collect(file.shapes)).fill(torch.device(device), torch.float32)
    return mimi.eval().requires_grad_(False)


def load_moshi(
    path: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    slots: int,
    pins: int = 0,
    *,
    int8_weights: bool = False,
    int8_cache: bool = False,
    listener: "Listener | None" = None,
) -> "tuple[Moshi, TextTokenizer]":
    """All that answers calls: codec, language model and state of ``slots`` conversations, and the text tokenizer.

    ``path`` is a folder, ``hf://owner/name``, ``embedded:front-desk`` for the small model that comes with Denwa, or
    ``random:tiny`` for the tiny model with seeded random weights; so many steps of a prompt as ``pins`` stay in
    sight; a ``listener`` (``load_listener``) writes down the caller, on this checkpoint's codec; the rest is as in
    ``load_language_model``. Raises ``CheckpointError``, also where the model only listens and where the listener reads
    another codec.
    """
    from model_runtime.moshi import Moshi
    from model_runtime.text import TextTokenizer

    if path == RANDOM_TINY:
        from model_runtime.kernels.int8 import quantize_
        from model_runtime.tiny import TOKENIZER, tiny_language_model, tiny_mimi

        lm = tiny_language_model().to(device=device, dtype=dtype)
        if int8_weights:
            quantize_(lm)
        lm.transformer.int8_cache = int8_cache
        mimi = tiny_mimi().to(device)
        return Moshi(mimi, lm, slots, pins, _share(mimi, lm, listener)), TextTokenizer(TOKENIZER)
    checkpoint = locate(path)
    if checkpoint.given is not None:
        raise CheckpointError(f"{path}: this is one file; the folder of the whole checkpoint is needed")
    if not checkpoint.config.lm.dep_q:
        raise CheckpointError(f"{path}: a speech-to-text model; it listens and cannot answer")
    tokenizer = TextTokenizer(checkpoint.tokenizer())  # first: what is small fails fast
    mimi = load_mimi(checkpoint, device)
    lm = load_language_model(checkpoint, device, dtype, int8_weights=int8_weights, int8_cache=int8_cache)
    hearing = _share(mimi, lm, listener)
    if tokenizer.vocab_size > lm.config.text_card:
        raise CheckpointError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} pieces, the language model {lm.config.text_card}"
        )
    try:
        return Moshi(mimi, lm, slots, pins, hearing), tokenizer
    except torch.OutOfMemoryError as error:
        raise CheckpointError(f"{path}: {slots} slots do not fit into the memory of {device}: {error}") from error


def load_listener(
    path: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    *,
    int8_weights: bool = False,
    int8_cache: bool = False,
) -> "Listener":
    """What writes down the caller: a speech-to-text model, its tokenizer and its delay; its codec is not loaded.

    ``path`` is a folder, ``hf://owner/name``, or ``random:stt`` for a tiny one with seeded random weights; the rest is
    as in ``load_language_model``. Raises ``CheckpointError``, also where the model does not only listen.
    """
    from model_runtime.listener import Listener
    from model_runtime.text import TextTokenizer

    if path == RANDOM_STT:
        from model_runtime.kernels.int8 import quantize_
        from model_runtime.tiny import STT_DELAY_S, TOKENIZER, tiny_listener

        lm = tiny_listener().to(device=device, dtype=dtype)
        if int8_weights:
            quantize_(lm)
        lm.transformer.int8_cache = int8_cache
        return Listener(lm, TextTokenizer(TOKENIZER), STT_DELAY_S)
    checkpoint = locate(path)
    if checkpoint.given is not None:
        raise CheckpointError(f"{path}: this is one file; the folder of the whole checkpoint is needed")
    if checkpoint.config.lm.dep_q:
        raise CheckpointError(f"{path}: it speaks; a listener is a speech-to-text model (dep_q 0)")
    delay = checkpoint.config.stt_config.get("audio_delay_seconds", 0.0)
    if not isinstance(delay, int | float) or not 0 <= delay <= _MOST_DELAY_S:
        raise CheckpointError(f"{path}: stt_config.audio_delay_seconds: seconds are needed, got {delay!r}")
    tokenizer = TextTokenizer(checkpoint.tokenizer())
    lm = load_language_model(checkpoint, device, dtype, int8_weights=int8_weights, int8_cache=int8_cache)
    return Listener(lm, tokenizer, float(delay))


def _share(mimi: "Mimi", lm: "LanguageModel", listener: "Listener | None") -> "LanguageModel | None":
    """The listener's model, with the codec set to as many codebooks as it reads; raises ``CheckpointError``."""
    if listener is None:
        return None
    config = listener.lm.config
    if config.card != mimi.config.bins or config.n_q > mimi.config.n_q:
        raise CheckpointError(
            f"the listener reads {config.n_q} codebooks of {config.card}; the model's codec has {mimi.config.n_q} of "
            f"{mimi.config.bins}"
        )
    mimi.codebooks = max(lm.config.dep_q, lm.config.n_q - lm.config.dep_q, config.n_q)
    return listener.lm


def check_language_model(checkpoint: Checkpoint) -> LanguageModelConfig:
    """The shape of a checkpoint's language model; raises ``CheckpointError`` where its file does not have it."""
    file = open_tensors(checkpoint.language_model())
    config = _language_model_config(checkpoint, file)
    lm = language_model_on_meta(config)
    Filling(lm, file, _language_model_tensors(checkpoint, file, config), _adapters(checkpoint)).check()
    return config


def check_codec(checkpoint: Checkpoint) -> None:
    """Raise ``CheckpointError`` where the codec's file does not have the codec's shape."""
    from model_runtime.mimi.codec import Mimi

    file = open_tensors(checkpoint.codec())
    _expect(file, "codec")
    with torch.device("meta"):
        mimi = Mimi(checkpoint.codec_config())
    Filling(mimi, file, collect(file.shapes)).check()


def language_model_on_meta(
    config: LanguageModelConfig, *, int8_weights: bool = False, int8_cache: bool = False
) -> "LanguageModel":
    """A language model without numbers, whose tensors have the shapes and types that it will be filled with."""
    from model_runtime.kernels.int8 import quantize_
    from model_runtime.lm.language_model import LanguageModel

    with torch.device("meta"):
        lm = LanguageModel(config)
    if int8_weights:
        quantize_(lm)
    lm.transformer.int8_cache = int8_cache
    return lm


def _adapters(checkpoint: Checkpoint) -> Adapters | None:
    path, config = checkpoint.adapters(), checkpoint.config.lora
    return None if path is None or config is None else Adapters(open_tensors(path), config)


def _language_model_config(checkpoint: Checkpoint, file: TensorFile) -> LanguageModelConfig:
    """The shape of a checkpoint's language model, with the extra heads that its file has and its config leaves out."""
    _expect(file, "language model")
    heads = [shape for key, shape in file.shapes.items() if key.startswith("extra_heads.") and key.endswith(".weight")]
    config = checkpoint.config.lm
    if heads and not config.extra_heads_num_heads:
        return replace(config, extra_heads_num_heads=len(heads), extra_heads_dim=heads[0][0])
    return config


def _expect(file: TensorFile, wanted: Family) -> None:
    holds = family(collect(file.shapes))
    if holds != wanted:
        raise CheckpointError(f"{file.path}: a {wanted} is needed, this file holds {holds}")


def _language_model_tensors(checkpoint: Checkpoint, file: TensorFile, config: LanguageModelConfig) -> dict[str, Stored]:
    """The tensors that the model has: without the condition's, and without depth steps that it does not take."""
    found = collect(file.shapes)
    if checkpoint.config.condition is not None:
        found = {name: stored for name, stored in found.items() if not name.startswith(PREFIX)}
    if not config.dep_q < generated_streams(found) == config.n_q:
        return found
    kept = {name: stored for name, stored in found.items() if not beyond(name, config.dep_q, config.depth_sets)}
    for name, stored in kept.items():
        if name.startswith("depformer.") and ".self_attn." in name:
            keys = {part: key for part, key in stored.keys.items() if part < config.depth_sets}
            kept[name] = Stored(keys, shortened=stored.whole)
    return kept
