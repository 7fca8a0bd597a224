"""The language model over whole sequences with gradients: the served modules, all frames and depth steps at once.

The temporal transformer's own pass is differentiable; the depth transformer's, which fills a cache in place, is not,
so its teacher-forced pass stands here. Logits equal those of the streaming step. Runs in the training process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.kernels.elementwise import silu_gate
from model_runtime.lm.depth import DepthAttention, DepthLayer
from model_runtime.lm.language_model import LanguageModel, TokenEmbedding
from model_runtime.training.lora import LowRank
from model_runtime.transformer import Gating, Transformer


@dataclass(frozen=True)
class Logits:
    """What is predicted for the targets of one batch."""

    text: Tensor  # [B, T, text_card]
    audio: Tensor  # [N, dep_q, card]: of the frames in ``rows``
    rows: Tensor  # [N] int64: indices into B * T
    hidden: Tensor  # [B, T, dim]: of the temporal transformer, for heads that only training has

    def audio_grid(self) -> Tensor:
        """The audio logits ``[B, dep_q, T, card]`` where all frames have some."""
        batch, length, _ = self.text.shape
        return self.audio.view(batch, length, *self.audio.shape[1:]).transpose(1, 2)


def delayed(tokens: Tensor, config: LanguageModelConfig) -> Tensor:
    """The columns ``[B, K, T + 1]`` of the token grid for streams ``tokens [B, K, T]``.

    Column 0 holds initial tokens; a token of frame n stands in column ``n + 1 + delay``, initial ones before it.
    Column t predicts column t + 1, so the targets are the columns from 1 on.
    """
    batch, streams, length = tokens.shape
    assert streams == config.streams, tokens.shape
    initial = [config.text_initial] + [config.audio_initial] * config.n_q
    columns = tokens.new_tensor(initial)[:, None].repeat(batch, 1, length + 1)
    for k, delay in enumerate(config.delays):
        columns[:, k, 1 + delay :] = tokens[:, k, : max(0, length - delay)]
    return columns


def delayed_mask(mask: Tensor, config: LanguageModelConfig) -> Tensor:
    """The mask ``[B, K, T]`` of the targets for a mask ``[B, K, T]`` of the streams; initial tokens never count."""
    out = torch.zeros_like(mask)
    length = mask.shape[-1]
    for k, delay in enumerate(config.delays):
        out[:, k, delay:] = mask[:, k, : max(0, length - delay)]
    return out


class TeacherForcing(nn.Module):
    """A language model, given what it should have said; its parameters are the model's own."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, columns: Tensor, rows: Tensor | None = None, heard: Tensor | None = None) -> Logits:
        """Logits for the columns from 1 on of ``columns [B, K, T + 1]``; audio for the frames ``rows [N]``, or all.

        ``heard [B, K, T]`` is what the temporal transformer is given, where that is not the columns.
        """
        lm = self.lm
        hidden, text = lm(columns[..., :-1] if heard is None else heard)  # [B, T, dim], [B, T, text_card]
        flat = hidden.flatten(0, 1)
        if rows is None:
            rows = torch.arange(len(flat), device=flat.device)
        given = columns[:, : 1 + lm.config.dep_q, 1:].transpose(1, 2).flatten(0, 1)  # [B * T, 1 + dep_q]
        return Logits(text, depth_logits(lm, flat[rows], given[rows]), rows, hidden)


def depth_logits(lm: LanguageModel, hidden: Tensor, tokens: Tensor) -> Tensor:
    """Logits ``[N, dep_q, card]`` for ``hidden [N, dim]`` and the frame's ``tokens [N, 1 + dep_q]``, text first.

    As ``LanguageModel.depth_logits``, all steps in one pass; negative tokens embed to nothing.
    """
    config = lm.config
    schedule = config.depth_schedule
    if not schedule:
        return hidden.new_empty(len(hidden), 0, config.card)
    embeddings = [lm.depformer_text_emb, *lm.depformer_emb]
    steps = []
    for k, number in enumerate(schedule):
        embedded = _embed(cast(TokenEmbedding, embeddings[k]), tokens[:, k])
        steps.append(lm.depformer_in[number](hidden) + embedded)
    x = torch.stack(steps, dim=1)  # [N, dep_q, depth]
    for layer in lm.depformer.layers:
        x = _depth_layer(cast(DepthLayer, layer), x, schedule)
    return torch.stack([lm.linears[k](lm.depformer_norms[k](x[:, k])) for k in range(config.dep_q)], dim=1)


def _embed(embedding: TokenEmbedding, tokens: Tensor) -> Tensor:
    row: Tensor = embedding(tokens.clamp(min=0))
    return row * (tokens >= 0)[:, None].to(row.dtype)


def _depth_layer(layer: DepthLayer, x: Tensor, schedule: Sequence[int]) -> Tensor:
    """One layer over all steps ``x [N, K, depth]``; step k uses the set of weights ``schedule[k]``."""
    x = x + _depth_attention(layer.self_attn, layer.norm1(x), schedule)
    fed = layer.norm2(x)
    gated = []
    for k, number in enumerate(schedule):
        gating = cast(Gating, layer.gating[number])
        gated.append(gating.linear_out(silu_gate(gating.linear_in(fed[:, k]))))
    return x + torch.stack(gated, dim=1)


def _depth_attention(attention: DepthAttention, x: Tensor, schedule: Sequence[int]) -> Tensor:
    heads, kv_heads, dim = attention.heads, attention.kv_heads, attention.dim
    into = attention.in_proj_weight.view(-1, attention.rows, dim)
    low_in = getattr(attention, "in_proj_lora", None)
    qkv = per_step(x, into, low_in, schedule).view(*x.shape[:2], heads + 2 * kv_heads, -1).transpose(1, 2)
    query, keys, values = torch.split(qkv, [heads, kv_heads, kv_heads], dim=1)  # [N, H, K, D]
    heard = F.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=heads != kv_heads)
    out = attention.out_proj.weight.view(-1, dim, dim)
    return per_step(heard.transpose(1, 2).flatten(2), out, getattr(attention, "out_proj_lora", None), schedule)


def per_step(x: Tensor, weights: Tensor, low: LowRank | None, schedule: Sequence[int]) -> Tensor:
    """``x [N, K, in]``, step k times the transposed ``weights [sets, out, in]`` of its set: ``[N, K, out]``."""
    steps, sets = [], weights.unbind(0)  # one gradient of all sets together
    for k, number in enumerate(schedule):
        y = F.linear(x[:, k], sets[number])
        steps.append(y if low is None else y + low(x[:, k], number).to(y.dtype))
    return torch.stack(steps, dim=1)


def checkpoint_activations(transformer: Transformer) -> None:
    """Let every layer keep its input alone and compute the rest again for the gradient (arXiv 1604.06174)."""
    for layer in transformer.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
