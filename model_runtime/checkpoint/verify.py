"""``denwa model verify``: does a checkpoint load, compute numbers, and keep up with a call? Owns the model it loads."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config.audio import FRAME_S, FRAME_SAMPLES
from model_runtime.checkpoint.files import locate
from model_runtime.checkpoint.loading import (
    RANDOM_STT,
    RANDOM_TINY,
    load_language_model,
    load_listener,
    load_mimi,
    load_moshi,
)
from model_runtime.checkpoint.report import place
from model_runtime.engine.model import SamplingOptions
from model_runtime.engine.moshi_model import MoshiModel
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi
from model_runtime.text import TextTokenizer

FRAMES = 50
_WARM_UP = 5
"""First steps, which torch makes slow once; no call meets them."""
_SEED = 7


@dataclass(frozen=True)
class Verdict:
    """What a run of a checkpoint showed."""

    load_s: float
    step_s: NDArray[np.float64]
    """Of every frame but the first ones."""
    not_finite: list[str]
    """Tensors, logits or audio that are no numbers."""
    slots: int

    @property
    def keeps_up(self) -> bool:
        """Whether 19 of 20 steps take less than the frame they stand for, which a call's two frames of slack allow."""
        return float(np.quantile(self.step_s, 0.95)) < FRAME_S

    @property
    def good(self) -> bool:
        """Whether calls can be answered with it."""
        return self.keeps_up and not self.not_finite

    def __str__(self) -> str:
        p50, p95, p99 = (float(np.quantile(self.step_s, q)) for q in (0.5, 0.95, 0.99))
        faults = ", ".join(self.not_finite)
        return "\n".join(
            (
                f"loaded      in {self.load_s:.1f} s",
                f"finite      {f'no: {faults}' if faults else f'weights, logits and audio of {FRAMES} frames'}",
                f"step        p50 {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, "
                f"{self.slots} at a time",
                f"real time   {'yes' if self.keeps_up else 'no'}: {FRAME_S / p50:.1f} times as fast as the call",
            )
        )


def verify(
    reference: str,
    device: str | None = None,
    dtype: str | None = None,
    slots: int = 1,
    *,
    int8_weights: bool = False,
    int8_cache: bool = False,
) -> Verdict:
    """Load a checkpoint and run ``FRAMES`` frames of noise in every slot; raises ``CheckpointError``.

    ``device`` and ``dtype`` are those of ``report.place``, the rest those of ``load_language_model``.
    """
    where, kind = place(device, dtype)
    started = perf_counter()
    if reference == RANDOM_STT:
        from model_runtime.tiny import tiny_mimi

        listener = load_listener(reference, where, kind, int8_weights=int8_weights, int8_cache=int8_cache)
        return _listen(tiny_mimi().to(where), listener.lm, slots, perf_counter() - started)
    checkpoint = None if reference == RANDOM_TINY else locate(reference)
    if checkpoint is not None and not checkpoint.config.lm.dep_q:
        mimi = load_mimi(checkpoint, where)
        lm = load_language_model(checkpoint, where, kind, int8_weights=int8_weights, int8_cache=int8_cache)
        return _listen(mimi, lm, slots, perf_counter() - started)
    loaded = load_moshi(reference, where, kind, slots, int8_weights=int8_weights, int8_cache=int8_cache)
    return _converse(*loaded, perf_counter() - started)


def _converse(moshi: Moshi, tokenizer: TextTokenizer, load_s: float) -> Verdict:
    slots = moshi.slots
    model = MoshiModel(moshi, tokenizer)
    model.warm_up()
    for slot in range(slots):
        model.reset(slot, SamplingOptions(), _SEED + slot)
    everyone = np.ones(slots, np.bool_)
    times, rows = [], []
    for frame in _noise(slots):
        started = perf_counter()
        rows.append(model.step(frame, everyone).tokens)
        times.append(perf_counter() - started)
    tokens = torch.from_numpy(np.stack(rows, axis=2)).to(moshi.device)  # [B, K, T]
    faults = [*_weights(moshi.lm), *_weights(moshi.mimi), *_logits(moshi.lm, tokens), *_audio(moshi.mimi, tokens)]
    return Verdict(load_s, np.array(times[_WARM_UP:]), faults, slots)


@torch.inference_mode()
def _listen(mimi: Mimi, lm: LanguageModel, slots: int, load_s: float) -> Verdict:
    device = lm.text_emb.weight.device
    heard, state = mimi.new_encoder_state(slots), lm.new_state(slots)
    everyone = torch.ones(slots, dtype=torch.bool, device=device)
    text = torch.full((slots, 1), lm.config.text_initial, device=device)
    times, rows = [], []
    for frame in _noise(slots):
        started = perf_counter()
        audio = torch.from_numpy(frame).to(device).float()[:, None] / 32_768  # [B, 1, 1920]
        rows.append(torch.cat([text, mimi.encode_step(audio, heard, everyone)], dim=1))  # [B, K]
        text = lm.step(rows[-1], state, everyone)[1].argmax(-1, keepdim=True)
        text[0, 0].item()  # waits for the device
        times.append(perf_counter() - started)
    faults = [*_weights(lm), *_weights(mimi), *_logits(lm, torch.stack(rows, dim=2))]
    return Verdict(load_s, np.array(times[_WARM_UP:]), faults, slots)


def _noise(slots: int) -> Iterator[NDArray[np.int16]]:
    random = np.random.default_rng(_SEED)
    for _ in range(FRAMES):
        yield random.normal(0, 2_000, (slots, FRAME_SAMPLES)).astype(np.int16)


def _weights(module: torch.nn.Module) -> Iterator[str]:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and not tensor.isfinite().all():
            yield name


@torch.inference_mode()
def _logits(lm: LanguageModel, tokens: Tensor) -> Iterator[str]:
    """The logits of one pass over all tokens, which hides nothing that a drawn token would."""
    hidden, text = lm(tokens)
    if not text.isfinite().all():
        yield "text logits"
    if lm.config.dep_q:
        rows = tokens.transpose(1, 2).flatten(0, 1).clamp(min=0)  # [B * T, K]
        if not lm.depth_logits(hidden.flatten(0, 1), rows[:, 0], rows[:, 1 : 1 + lm.config.dep_q]).isfinite().all():
            yield "audio logits"


@torch.inference_mode()
def _audio(mimi: Mimi, tokens: Tensor) -> Iterator[str]:
    codes = tokens[:, 1 : 1 + mimi.codebooks].clamp(0, mimi.config.bins - 1)  # [B, K', T]
    if not mimi.decode(codes).isfinite().all():
        yield "audio"
