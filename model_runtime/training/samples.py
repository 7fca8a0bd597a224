"""What a model in training can do by now: its answer to a held-out caller, its version of a held-out recording.

Runs in the training process between steps.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from model_runtime.checkpoint import load_mimi
from model_runtime.checkpoint.files import locate
from model_runtime.errors import CheckpointError
from model_runtime.lm.delays import TokenGrid
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.text import TextTokenizer
from model_runtime.training.batch import Batch
from model_runtime.training.mimi_task import MimiTask
from model_runtime.training.recordings import write_wav
from model_runtime.training.stages import Stage
from model_runtime.training.tasks import LanguageModelTask, Task
from model_runtime.training.trainer import Data

_LOG: Final = logging.getLogger(__name__)
_FRAMES: Final = 125
"""Of a sample: 10 s."""


def sampler(stage: Stage, task: Task[Any], data: Data[Any], run: Path) -> Callable[[int], str] | None:
    """What tells at a step what the task can do by now, on the first held-out example; None where there is none.

    Audio goes to ``samples`` in the run's folder. A language model needs a checkpoint that has a tokenizer, and a codec
    where its audio is to be heard.
    """
    if data.held_out is None:
        return None
    batch = next(iter(data.held_out()))
    if isinstance(task, MimiTask):
        return lambda step: _sample_codec(task, batch.audio[:1], run / "samples" / f"step-{step:08d}.wav")
    assert isinstance(task, LanguageModelTask)
    assert isinstance(batch, Batch)
    try:
        checkpoint = locate(stage.model.checkpoint or "")
        tokenizer = TextTokenizer(checkpoint.tokenizer())
    except CheckpointError as error:
        _LOG.warning("no samples: %s", error)
        return None
    try:
        mimi = load_mimi(checkpoint)
    except CheckpointError as error:
        _LOG.warning("samples are not heard: %s", error)
        mimi = None
    example = batch.tokens[0, :, :_FRAMES]

    def sample(step: int) -> str:
        own = 1 + task.lm.config.dep_q
        said = converse(task.lm, example[own:]).cpu()
        if mimi is not None:
            write_conversation(mimi, said[1:], example[own:], run / "samples" / f"step-{step:08d}.wav")
        return f"{transcript(tokenizer, said[0])!r} where the recording has {transcript(tokenizer, example[0])!r}"

    return sample


@torch.no_grad()
def _sample_codec(task: MimiTask, audio: Tensor, path: Path) -> str:
    """Write the original on the left and what the codec makes of it on the right."""
    said = task.mimi.decode(task.mimi.encode(audio.to(next(task.parameters()).device))).cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, torch.cat([audio[0], said[0]]).numpy())
    return str(path)


def converse(lm: LanguageModel, user: Tensor) -> Tensor:
    """Text and own codes ``[1 + dep_q, T']`` that ``lm`` answers with, greedily, to the codes ``user [n_user, T]``.

    As the runtime steps; the first ``max(delays)`` frames give nothing.
    """
    return converse_with_all(lm, user[None])[0]


@torch.no_grad()
def converse_with_all(lm: LanguageModel, user: Tensor) -> Tensor:
    """What ``converse`` gives, for several callers ``[B, n_user, T]`` at once: ``[B, 1 + dep_q, T']``."""
    device, batch = lm.text_emb.weight.device, len(user)
    grid = TokenGrid(lm.config, device)
    everyone = torch.ones(batch, dtype=torch.bool, device=device)
    state, heard = lm.new_state(batch), grid.new_state(batch)
    said = []
    for codes in user.to(device).unbind(-1):  # [B, n_user]
        grid.hear(heard, codes, everyone)
        hidden, logits = lm.step(grid.inputs(heard, everyone), state, everyone)
        text = logits.argmax(-1)
        own = lm.generate_codes(hidden, text, lambda _, scores: scores.argmax(-1))
        complete, ready = grid.say(heard, text, own, everyone)
        if bool(ready.all()):  # they all began together
            said.append(complete[:, : 1 + lm.config.dep_q])
    return torch.stack(said, dim=2) if said else torch.empty(batch, 1 + lm.config.dep_q, 0, dtype=torch.long)


def transcript(tokenizer: TextTokenizer, text: Tensor) -> str:
    """What the tokens ``[T]`` of a text stream say."""
    return "".join(tokenizer.piece(token) for token in text.tolist()).strip()


@torch.no_grad()
def write_conversation(mimi: Mimi, own: Tensor, user: Tensor, path: Path) -> Path:
    """Write a WAV file with the codes ``own [K, T]`` on the left and ``user [K, T]`` on the right."""
    device = next(mimi.parameters()).device
    length = min(own.shape[1], user.shape[1])
    codes = torch.stack([own[:, :length], user[:, :length]]).to(device).clamp(0, mimi.config.bins - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, mimi.decode(codes)[:, 0].cpu().numpy())
    return path
