"""The depth transformer: the codes of one frame, one after the other (arXiv 2410.00037, section 3.4.3).

Runs on the engine thread. It starts anew with every frame, so it keeps no state of slots: all rows go in lock-step,
and each of its ``dep_q`` steps has a set of weights, mostly its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config import TransformerConfig
from model_runtime.transformer import Gating, norm_layer


@dataclass
class DepthCache:
    """Keys and values of the steps done in this frame; nothing of it outlives the frame."""

    kv: Tensor  # [layers, N, steps, 2, KV, D]


class DepthAttention(nn.Module):
    """Causal attention over the earlier steps; the sets of weights are stored one after the other."""

    def __init__(self, config: TransformerConfig, sets: int) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.num_heads
        self.kv_heads = config.kv_heads
        self.dim = dim
        self.rows = dim + 2 * config.kv_heads * config.head_dim
        self.in_proj_weight = nn.Parameter(torch.empty(sets * self.rows, dim))
        self.out_proj = nn.Linear(dim, sets * dim, bias=False)  # [sets * dim, dim], as published
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)

    def forward(self, x: Tensor, kv: Tensor, step: int, weights: int) -> Tensor:
        """Attend with ``x [N, dim]`` over ``kv [N, steps, 2, KV, D]``, whose first ``step`` entries are filled."""
        heads, rows, dim = self.heads, self.rows, self.dim
        qkv = F.linear(x, self.in_proj_weight[weights * rows : (weights + 1) * rows])
        qkv = qkv.view(-1, heads + 2 * self.kv_heads, dim // heads)  # [N, H + 2 KV, D]
        kv[:, step] = qkv[:, heads:].view(-1, 2, self.kv_heads, dim // heads)
        keys, values = kv[:, : step + 1].transpose(1, 3).unbind(2)  # [N, KV, step + 1, D]
        query = qkv[:, :heads, None]  # [N, H, 1, D]
        heard = F.scaled_dot_product_attention(query, keys, values, enable_gqa=heads != self.kv_heads)
        return F.linear(heard.flatten(1), self.out_proj.weight[weights * dim : (weights + 1) * dim])


class DepthLayer(nn.Module):
    """Pre-norm attention and gating; the norms are shared by all steps."""

    def __init__(self, config: TransformerConfig, sets: int) -> None:
        super().__init__()
        self.norm1 = norm_layer(config.norm, config.dim)
        self.norm2 = norm_layer(config.norm, config.dim)
        self.self_attn = DepthAttention(config, sets)
        self.gating = nn.ModuleList(Gating(config.dim, config.hidden) for _ in range(sets))

    def forward(self, x: Tensor, kv: Tensor, step: int, weights: int) -> Tensor:
        """One layer of one step over ``x [N, dim]``."""
        x = x + self.self_attn(self.norm1(x), kv, step, weights)
        y: Tensor = x + self.gating[weights](self.norm2(x))
        return y


class DepthTransformer(nn.Module):
    """The layers of the depth transformer; step k uses the set of weights ``schedule[k]``."""

    def __init__(self, config: TransformerConfig, schedule: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.schedule = schedule
        self.steps = len(schedule)
        sets = max(schedule, default=-1) + 1
        self.layers = nn.ModuleList(DepthLayer(config, sets) for _ in range(config.num_layers))

    def new_cache(self, rows: int) -> DepthCache:
        """Room for one frame of so many rows."""
        config, weight = self.config, next(self.parameters())
        shape = (config.num_layers, rows, self.steps, 2, config.kv_heads, config.head_dim)
        return DepthCache(torch.zeros(shape, device=weight.device, dtype=weight.dtype))

    def forward(self, x: Tensor, cache: DepthCache, step: int) -> Tensor:
        """Output ``[N, dim]`` of one step for ``x [N, dim]``; the earlier steps of the frame are in ``cache``."""
        weights = self.schedule[step]
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            x = layer(x, kv, step, weights)
        return x
