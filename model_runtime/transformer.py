"""The causal transformer of Mimi and of the language model, whole sequences and streaming. Runs on the engine thread.

Parameter names are those of the published checkpoints (``self_attn.in_proj_weight``, ``gating.linear_in`` ...).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config import Norm, TransformerConfig
from model_runtime.kv_cache import RingKVCache, RingStep, causal_bias


@dataclass
class TransformerState:
    """Where each slot is, and what its layers remember."""

    offset: Tensor  # [B] int64: positions seen so far
    rings: list[RingKVCache]


@dataclass(frozen=True)
class _Pass:
    """What all layers of one pass share."""

    rotation: Tensor | None  # [B, T, 1, 1, D / 2] complex
    bias: Tensor  # [B or 1, 1, T, S]
    ring: RingStep | None


class RMSNorm(nn.Module):
    """Root-mean-square norm computed in float32 (``rms_norm_f32`` of the reference, epsilon 1e-8)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x [..., dim]``."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-8)
        return (wide * scale * self.alpha.view(-1).float()).to(x.dtype)


def norm_layer(kind: Norm, dim: int) -> nn.Module:
    """The norm that a checkpoint calls ``kind``."""
    return RMSNorm(dim) if kind == "rms_norm_f32" else nn.LayerNorm(dim, eps=1e-5)


class LayerScale(nn.Module):
    """A learnt gain per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x [..., dim]``."""
        return x * self.scale


class Gating(nn.Module):
    """SiLU-gated feed-forward: ``out(silu(a) * b)`` with a and b the halves of one projection."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(dim, 2 * hidden, bias=False)
        self.linear_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., dim]`` to the same shape."""
        gate, value = self.linear_in(x).chunk(2, dim=-1)
        projected: Tensor = self.linear_out(F.silu(gate) * value)
        return projected


def rotation(positions: Tensor, head_dim: int, max_period: float) -> Tensor:
    """Unit complex numbers ``[*positions, 1, 1, head_dim / 2]`` that turn a head's pairs at these positions."""
    exponent = torch.arange(head_dim // 2, device=positions.device, dtype=torch.float32) * (2 / head_dim)
    angle = positions.float()[..., None] * max_period**-exponent
    return torch.polar(torch.ones_like(angle), angle)[..., None, None, :]


def rotate(heads: Tensor, by: Tensor) -> Tensor:
    """Turn neighbouring pairs of ``heads [B, T, N, H, D]`` in float32 (interleaved RoPE)."""
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * by).flatten(-2).to(heads.dtype)


class SelfAttention(nn.Module):
    """Multi-head causal attention; queries, keys and values come from one fused projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)

    def forward(self, x: Tensor, shared: _Pass, ring: RingKVCache | None) -> Tensor:
        """Attend over ``x [B, T, dim]`` and, streaming, over what the ring holds."""
        batch, length, dim = x.shape
        qkv = F.linear(x, self.in_proj_weight).view(batch, length, 3, self.heads, dim // self.heads)
        if shared.rotation is not None:
            qkv[:, :, :2] = rotate(qkv[:, :, :2], shared.rotation)
        if ring is None or shared.ring is None:
            keys, values = qkv[:, :, 1].transpose(1, 2), qkv[:, :, 2].transpose(1, 2)  # [B, H, T, D]
        else:
            keys, values = ring.append(qkv[:, :, 1:], shared.ring)  # [B, H, capacity, D]
        query = qkv[:, :, 0].transpose(1, 2)  # [B, H, T, D]
        heard = F.scaled_dot_product_attention(query, keys, values, attn_mask=shared.bias)
        projected: Tensor = self.out_proj(heard.transpose(1, 2).flatten(2))
        return projected


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward, each behind a layer scale where the checkpoint has one."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = norm_layer(config.norm, dim)
        self.norm2 = norm_layer(config.norm, dim)
        self.self_attn = SelfAttention(dim, config.num_heads)
        if config.gating:
            self.gating = Gating(dim, config.hidden)
        else:
            self.linear1 = nn.Linear(dim, config.hidden, bias=False)
            self.linear2 = nn.Linear(config.hidden, dim, bias=False)
        self._gated = config.gating
        self.layer_scale_1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.layer_scale_2 = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, shared: _Pass, ring: RingKVCache | None) -> Tensor:
        """One layer over ``x [B, T, dim]``."""
        x = x + self.layer_scale_1(self.self_attn(self.norm1(x), shared, ring))
        fed = self.norm2(x)
        fed = self.gating(fed) if self._gated else self.linear2(F.gelu(self.linear1(fed)))
        y: Tensor = x + self.layer_scale_2(fed)
        return y


class Transformer(nn.Module):
    """A stack of causal layers, offline over a whole sequence or streaming over slots."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))

    def new_state(self, slots: int, ring: int | None = None) -> TransformerState:
        """Fresh state for so many slots; ``ring`` is its capacity, by default the context (see kv_cache)."""
        config, weight = self.config, next(self.parameters())
        capacity = config.context if ring is None else ring
        return TransformerState(
            offset=torch.zeros(slots, device=weight.device, dtype=torch.long),
            rings=[
                RingKVCache.allocate(
                    slots, capacity, config.num_heads, config.head_dim, device=weight.device, dtype=weight.dtype
                )
                for _ in self.layers
            ],
        )

    def forward(self, x: Tensor, state: TransformerState | None = None, mask: Tensor | None = None) -> Tensor:
        """Map ``x [B, T, dim]``: a whole sequence, or with ``state`` the next T positions of the slots in ``mask``."""
        length = x.shape[1]
        if state is None:
            positions = torch.arange(length, device=x.device)[None]  # [1, T]
            shared = _Pass(
                self._rotation(positions), causal_bias(positions, positions, self.config.context, x.dtype), None
            )
            for layer in self.layers:
                x = layer(x, shared, None)
            return x
        assert mask is not None
        assert mask.shape == state.offset.shape
        capacity = state.rings[0].kv.shape[1]
        step = RingStep.plan(state.offset, mask, length, capacity, self.config.context, x.dtype)
        shared = _Pass(self._rotation(step.positions), step.bias, step)
        for layer, ring in zip(self.layers, state.rings, strict=True):
            x = layer(x, shared, ring)
        state.offset.add_(mask, alpha=length)
        return x

    def _rotation(self, positions: Tensor) -> Tensor | None:
        config = self.config
        return None if config.max_period is None else rotation(positions, config.head_dim, config.max_period)
