"""From a stage to the task that it trains, and from a trained task to a checkpoint. Runs in the training process."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from model_runtime.checkpoint import load_language_model, load_mimi
from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig
from model_runtime.checkpoint.config_file import parse_config
from model_runtime.checkpoint.files import locate
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.training.export import (
    config_keys,
    export_adapters,
    export_language_model,
    export_mimi,
    language_model_keys,
)
from model_runtime.training.listening import ListeningTask
from model_runtime.training.lora import add_adapters
from model_runtime.training.mimi_task import MimiTask, initialise
from model_runtime.training.projected import project_codebooks, settle_tables
from model_runtime.training.stages import ModelSettings, Stage, StageError, read_fields
from model_runtime.training.tasks import LanguageModelTask, Task


def make_task(stage: Stage) -> Task[Any]:
    """The task of a stage on the CPU, the same in every process; raises ``CheckpointError``."""
    seed = stage.trainer.seed
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # modules draw their first weights from the global generator
        random = torch.Generator().manual_seed(seed)
        if stage.task == "mimi":
            return MimiTask(_mimi(stage.model, random), stage.mimi, begun=stage.model.checkpoint is not None)
        lm = _language_model(stage.model, random)
        if stage.listening is not None:
            return ListeningTask(lm, stage.language_model, stage.listening)
        return LanguageModelTask(lm, stage.language_model)


def export_task(task: Task[Any], stage: Stage, folder: Path, *, merge: bool = False) -> Path:
    """Write what was trained as a checkpoint: a codec, a language model, or with LoRA adapters on top of theirs.

    ``merge`` writes the whole model instead of adapters.
    """
    if isinstance(task, MimiTask):
        return export_mimi(task.mimi, folder)
    assert isinstance(task, LanguageModelTask)
    settle_tables(task.lm)
    base, dtype = stage.model.checkpoint, torch.bfloat16 if stage.model.dtype == "bfloat16" else torch.float32
    keys: Mapping[str, Any] = {} if base is None else config_keys(locate(base))
    if stage.model.lora is not None and not merge:
        return export_adapters(task.lm, folder, keys, stage.model.lora, dtype=dtype)
    keys = {**keys, **language_model_keys(task.lm.config)}
    export_language_model(task.lm, folder, keys, dtype)
    if isinstance(task, ListeningTask):
        task.save_heads(folder)
    return folder


def _language_model(settings: ModelSettings, random: torch.Generator) -> LanguageModel:
    dtype = torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
    if settings.checkpoint is not None:
        loaded = load_language_model(settings.checkpoint, "cpu", dtype)
        lm = loaded.train().requires_grad_(True)
        if settings.acoustic_delay is not None:
            lm.config = _with_delay(lm.config, settings.acoustic_delay)
    else:
        config = parse_config(settings.shape).lm
        if settings.acoustic_delay is not None:
            config = _with_delay(config, settings.acoustic_delay)
        lm = new_language_model(config, random)
    if settings.user_embeddings_from is not None:
        mimi = load_mimi(settings.user_embeddings_from, codebooks=lm.config.own_q)
        if settings.user_embeddings == "projected":
            project_codebooks(lm, mimi, None if settings.checkpoint is not None else random)
        else:
            embed_codebooks(lm, mimi, random)
    lm = lm.to(dtype)
    return lm if settings.lora is None else add_adapters(lm, settings.lora, random, embeddings=settings.lora_embeddings)


def _with_delay(config: LanguageModelConfig, delay: int) -> LanguageModelConfig:
    """The same shape with acoustic codes ``delay`` frames late; the semantic ones and text are not."""
    own = config.own_q
    speakers = (0 if k % own == 0 else delay for k in range(config.n_q))
    return replace(config, delays=(0, *speakers))


@torch.no_grad()
def new_language_model(config: LanguageModelConfig, random: torch.Generator) -> LanguageModel:
    """A model whose matrices keep variance at 1 and whose embeddings' sum has about that; gains are 1."""
    lm = LanguageModel(config)
    for name, parameter in lm.named_parameters():
        if parameter.dim() < 2 or "norm" in name:
            continue
        scale = config.streams**-0.5 if "emb" in name and "low_rank" not in name else parameter.shape[-1] ** -0.5
        parameter.copy_(scale * torch.randn(parameter.shape, generator=random))
    return lm


@torch.no_grad()
def embed_codebooks(lm: LanguageModel, mimi: Mimi, random: torch.Generator) -> None:
    """Let the caller's codes begin as what they mean: the codec's centroids, projected at random to the model's width.

    Centroids that are near stay near, so that unheard voices are not strange (reference/tiny.md, part C). The acoustic
    codes of a frame sum to its acoustic latent, as large as its semantic one. Rows of initial tokens stay.
    """
    own = lm.config.own_q
    quantizer = mimi.quantizer
    for chain, first in ((quantizer.rvq_first, 0), (quantizer.rvq_rest, 1)):
        books = chain.codebooks[: 1 if first == 0 else own - 1]
        vectors = torch.stack([book.centroids @ chain.output_proj.weight[..., 0].T for book in books])  # [Q, bins, C]
        vectors = vectors - vectors.mean(1, keepdim=True)
        projected = vectors @ torch.randn(vectors.shape[-1], lm.config.dim, generator=random)
        projected = projected * (0.5 / projected.square().mean((1, 2)).sum().sqrt())
        for k, table in enumerate(projected):
            rows = cast(nn.Embedding, lm.emb[own + first + k]).weight
            rows[: len(table)] = table.to(rows.dtype)


def _mimi(settings: ModelSettings, random: torch.Generator) -> Mimi:
    if settings.checkpoint is not None:
        return load_mimi(settings.checkpoint, "cpu", settings.codebooks).train().requires_grad_(True)
    return initialise(Mimi(_mimi_config(settings.shape), settings.codebooks), random)


def _mimi_config(shape: Mapping[str, Any]) -> MimiConfig:
    """The published shape with the keys of ``shape``, fields of ``MimiConfig``, in place of its own."""
    faults: list[str] = []
    config = read_fields(MimiConfig, dict(shape), "model.shape", faults)
    if config is None:
        raise StageError("; ".join(faults))
    return config
