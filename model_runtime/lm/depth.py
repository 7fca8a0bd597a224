"""The depth transformer: the codes of one frame, one after the other (arXiv 2410.00037, section 3.4.3).

Runs on the engine thread. It starts anew with every frame, so it keeps no state of slots: all rows go in lock-step,
and each of its ``dep_q`` steps has a set of weights, mostly its own.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config import TransformerConfig
from model_runtime.kernels.int8 import linear
from model_runtime.layout import by_column
from model_runtime.transformer import Gating, norm_layer


@dataclass
class DepthCache:
    """Keys and values of the steps done in this frame; nothing of it outlives the frame."""

    kv: list[Tensor]  # per layer [N, 2, KV, steps, D]


@dataclass(frozen=True)
class DepthWeights:
    """One of the sets of weights of a layer's attention; the scales are there where the weights are int8."""

    into: Tensor  # [rows, dim]
    into_scb: Tensor | None  # [rows]
    out: Tensor  # [dim, dim]
    out_scb: Tensor | None  # [dim]


class DepthAttention(nn.Module):
    """Causal attention over the earlier steps; the sets of weights are stored one after the other."""

    in_proj_weight_scb: Tensor | None

    def __init__(self, config: TransformerConfig, sets: int) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.num_heads
        self.kv_heads = config.kv_heads
        self.dim = dim
        self.rows = dim + 2 * config.kv_heads * config.head_dim
        self.in_proj_weight = nn.Parameter(torch.empty(sets * self.rows, dim))
        self.register_buffer("in_proj_weight_scb", None)  # [sets * rows] float32 where the weight is int8
        self.out_proj = nn.Linear(dim, sets * dim, bias=False)  # [sets * dim, dim], as published
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)
        self._sets: list[DepthWeights] = []

    def lay_out(self) -> None:
        """Take the sets of weights apart for stepping: views, or on the CPU copies that lie better (layout.py)."""
        self._sets = [
            replace(one, into=by_column(one.into), out=by_column(one.out))
            for one in map(self._set_of_weights, range(self.out_proj.weight.shape[0] // self.dim))
        ]

    def _set_of_weights(self, number: int) -> DepthWeights:
        rows, dim = self.rows, self.dim
        into, out = slice(number * rows, (number + 1) * rows), slice(number * dim, (number + 1) * dim)
        out_scb = getattr(self.out_proj, "weight_scb", None)
        return DepthWeights(
            self.in_proj_weight[into],
            None if self.in_proj_weight_scb is None else self.in_proj_weight_scb[into],
            self.out_proj.weight[out],
            None if out_scb is None else out_scb[out],
        )

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # torch leaves it untyped
        """Forget what was laid out for another dtype or device."""
        self._sets = []
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, kv: Tensor, step: int, weights: int) -> Tensor:
        """Attend with ``x [N, dim]`` over ``kv [N, 2, KV, steps, D]``, whose first ``step`` entries are filled."""
        heads, kv_heads = self.heads, self.kv_heads
        own = self._sets[weights] if self._sets else self._set_of_weights(weights)
        qkv = linear(x, own.into, own.into_scb).view(-1, heads + 2 * kv_heads, self.dim // heads)
        kv[:, :, :, step] = qkv[:, heads:].view(-1, 2, kv_heads, self.dim // heads)
        keys, values = kv[:, :, :, : step + 1].unbind(1)  # [N, KV, step + 1, D]
        query = qkv[:, :heads, None]  # [N, H, 1, D]
        heard = F.scaled_dot_product_attention(query, keys, values, enable_gqa=heads != kv_heads)
        return linear(heard.flatten(1), own.out, own.out_scb)


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
        shape = (config.num_layers, rows, 2, config.kv_heads, self.steps, config.head_dim)
        return DepthCache(list(torch.empty(shape, device=weight.device, dtype=weight.dtype)))

    def forward(self, x: Tensor, cache: DepthCache, step: int) -> Tensor:
        """Output ``[N, dim]`` of one step for ``x [N, dim]``; the earlier steps of the frame are in ``cache``."""
        weights = self.schedule[step]
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            x = layer(x, kv, step, weights)
        return x
