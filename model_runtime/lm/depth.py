"""The depth transformer: the codes of one frame, one after the other (arXiv 2410.00037, section 3.4.3).

Runs on the engine thread. It starts anew with every frame, so it keeps no state of slots: all rows go in lock-step,
and each of its ``dep_q`` steps has weights of its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config import TransformerConfig
from model_runtime.transformer import Gating, RMSNorm


@dataclass
class DepthCache:
    """Keys and values of the steps done in this frame; nothing of it outlives the frame."""

    kv: Tensor  # [layers, N, steps, 2, H, D]


class DepthAttention(nn.Module):
    """Causal attention over the earlier steps, with weights per step, stored one after the other."""

    def __init__(self, dim: int, heads: int, steps: int) -> None:
        super().__init__()
        self.heads = heads
        self.dim = dim
        self.in_proj_weight = nn.Parameter(torch.empty(steps * 3 * dim, dim))
        self.out_proj = nn.Linear(dim, steps * dim, bias=False)  # [steps * dim, dim], as published
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)

    def forward(self, x: Tensor, kv: Tensor, step: int) -> Tensor:
        """Attend with ``x [N, dim]`` over ``kv [N, steps, 2, H, D]``, whose first ``step`` entries are filled."""
        dim = self.dim
        project = self.in_proj_weight[step * 3 * dim : (step + 1) * 3 * dim]
        qkv = F.linear(x, project).view(-1, 3, self.heads, dim // self.heads)  # [N, 3, H, D]
        kv[:, step] = qkv[:, 1:]
        keys, values = kv[:, : step + 1].transpose(1, 3).unbind(2)  # [N, H, step + 1, D]
        heard = F.scaled_dot_product_attention(qkv[:, 0, :, None], keys, values)  # [N, H, 1, D]
        return F.linear(heard.flatten(1), self.out_proj.weight[step * dim : (step + 1) * dim])


class DepthLayer(nn.Module):
    """Pre-norm attention and gating; the norms are shared by all steps."""

    def __init__(self, config: TransformerConfig, steps: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.dim)
        self.norm2 = RMSNorm(config.dim)
        self.self_attn = DepthAttention(config.dim, config.num_heads, steps)
        self.gating = nn.ModuleList(Gating(config.dim, config.hidden) for _ in range(steps))

    def forward(self, x: Tensor, kv: Tensor, step: int) -> Tensor:
        """One layer of one step over ``x [N, dim]``."""
        x = x + self.self_attn(self.norm1(x), kv, step)
        y: Tensor = x + self.gating[step](self.norm2(x))
        return y


class DepthTransformer(nn.Module):
    """The layers of the depth transformer."""

    def __init__(self, config: TransformerConfig, steps: int) -> None:
        super().__init__()
        self.config = config
        self.steps = steps
        self.layers = nn.ModuleList(DepthLayer(config, steps) for _ in range(config.num_layers))

    def new_cache(self, rows: int) -> DepthCache:
        """Room for one frame of so many rows."""
        config, weight = self.config, next(self.parameters())
        shape = (config.num_layers, rows, self.steps, 2, config.num_heads, config.head_dim)
        return DepthCache(torch.zeros(shape, device=weight.device, dtype=weight.dtype))

    def forward(self, x: Tensor, cache: DepthCache, step: int) -> Tensor:
        """Output ``[N, dim]`` of one step for ``x [N, dim]``; the earlier steps of the frame are in ``cache``."""
        for layer, kv in zip(self.layers, cache.kv, strict=True):
            x = layer(x, kv, step)
        return x
