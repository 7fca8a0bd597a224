"""The causal transformer of Mimi and of the language model, whole sequences and streaming. Runs on the engine thread.

Parameter names are those of the published checkpoints (``self_attn.in_proj_weight``, ``gating.linear_in`` ...).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config import Norm, TransformerConfig
from model_runtime.kernels.elementwise import rotate, rotate_, silu_gate
from model_runtime.kernels.int8 import linear
from model_runtime.kv_cache import Ring, RingKVCache, RingLayout, RingStep, SlotRing, attend_over, causal_bias
from model_runtime.kv_int8 import Int8RingKVCache
from model_runtime.layout import by_column


@dataclass
class TransformerState:
    """Where each slot is, and what its layers remember."""

    offset: Tensor  # [B] int64: positions seen so far
    rings: list[Ring]
    layout: RingLayout | None = None
    """Where a ring may begin late or pin its first positions."""
    sinks: list[Tensor] | None = None  # per layer [B, P, H, D]: pinned keys as they were at their own positions


@dataclass(frozen=True)
class _Pass:
    """What all layers of one pass share."""

    rotation: Tensor | None  # [B, T, 1, 1, D / 2] complex
    bias: Tensor  # [B or 1, 1, T, S]
    ring: RingStep | None


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 or (``rms_norm`` of the reference) in the input's own type."""

    def __init__(self, dim: int, eps: float = 1e-8, *, wide: bool = True) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, dim))
        self._eps = eps
        self._wide = wide

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x [..., dim]``."""
        alpha = self.alpha.view(-1)
        if self._wide and x.dtype == torch.float32 and x.device.type == "cpu":
            # What rms_norm computes, in half its operations; on a CPU each costs more than its arithmetic.
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scale = torch.addcmul(x.new_full((1,), self._eps), length, length, value=1 / x.shape[-1]).rsqrt()
            return x * scale * alpha
        if self._wide:
            return F.rms_norm(x, alpha.shape, alpha, self._eps)  # computes in float32 whatever the input is
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self._eps)
        return x * scale * alpha


class WideLayerNorm(nn.LayerNorm):
    """Layer norm computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x [..., dim]``."""
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps).to(
            x.dtype
        )


def norm_layer(kind: Norm, dim: int) -> nn.Module:
    """The norm that a checkpoint calls ``kind``, with the reference's epsilon."""
    match kind:
        case "rms_norm_f32":
            return RMSNorm(dim)
        case "rms_norm":
            return RMSNorm(dim, 1e-5, wide=False)
        case "layer_norm_f32":
            return WideLayerNorm(dim, eps=1e-8)
        case "layer_norm":
            return nn.LayerNorm(dim, eps=1e-5)


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
        projected: Tensor = self.linear_out(silu_gate(self.linear_in(x)))
        return projected


def rotation(positions: Tensor, head_dim: int, max_period: float) -> Tensor:
    """Unit complex numbers ``[*positions, 1, 1, head_dim / 2]`` that turn a head's pairs at these positions."""
    exponent = torch.arange(head_dim // 2, device=positions.device, dtype=torch.float32) * (2 / head_dim)
    angle = positions.float()[..., None] * max_period**-exponent
    return torch.polar(torch.ones_like(angle), angle)[..., None, None, :]


def rotate_halves(heads: Tensor, by: Tensor) -> Tensor:
    """Turn the pairs that the two halves of each head in ``heads [B, T, N, H, D]`` make, in float32."""
    halves = heads.float().view(*heads.shape[:-1], 2, -1)  # [B, T, N, H, 2, D / 2]
    pairs = torch.complex(halves[..., 0, :], halves[..., 1, :])
    return torch.view_as_real(pairs * by).transpose(-1, -2).flatten(-2).to(heads.dtype)


class SelfAttention(nn.Module):
    """Multi-head causal attention; queries, keys and values come from one fused projection, in that order."""

    in_proj_weight_scb: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.num_heads
        self.kv_heads = config.kv_heads
        self._interleaved = config.rope == "rope"
        self.in_proj_weight = nn.Parameter(torch.empty(dim + 2 * config.kv_heads * config.head_dim, dim))
        self.register_buffer("in_proj_weight_scb", None)  # [rows] float32 where the weight is int8
        self.out_proj = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)

    def lay_out(self) -> None:
        """Arrange the projection for stepping (model_runtime/layout.py)."""
        self.in_proj_weight.data = by_column(self.in_proj_weight.data)

    def forward(self, x: Tensor, shared: _Pass, ring: Ring | SlotRing | None) -> Tensor:
        """Attend over ``x [B, T, dim]`` and, streaming, over what the ring holds."""
        batch, length, dim = x.shape
        heads, kv_heads = self.heads, self.kv_heads
        qkv = linear(x, self.in_proj_weight, self.in_proj_weight_scb)
        qkv = qkv.view(batch, length, 1, heads + 2 * kv_heads, dim // heads)
        if shared.rotation is not None:
            turning = qkv[:, :, :, : heads + kv_heads]
            if self._interleaved:
                rotate_(turning, shared.rotation)
            else:
                turning.copy_(rotate_halves(turning, shared.rotation))
        kv = qkv[:, :, 0, heads:].view(batch, length, 2, kv_heads, -1)  # [B, T, 2, KV, D]
        query = qkv[:, :, 0, :heads].transpose(1, 2)  # [B, H, T, D]
        if ring is None or shared.ring is None:
            keys, values = kv.permute(2, 0, 3, 1, 4)  # [B, KV, T, D]
            heard = attend_over(query, keys, values, shared.bias)
        else:
            heard = ring.attend(query, kv, shared.ring)  # [B, H, T, D]
        projected: Tensor = self.out_proj(heard.transpose(1, 2).flatten(2))
        return projected


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward, each behind a layer scale where the checkpoint has one."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = norm_layer(config.norm, dim)
        self.norm2 = norm_layer(config.norm, dim)
        self.self_attn = SelfAttention(config)
        if config.gating:
            self.gating = Gating(dim, config.hidden)
        else:
            self.linear1 = nn.Linear(dim, config.hidden, bias=False)
            self.linear2 = nn.Linear(config.hidden, dim, bias=False)
        self._gated = config.gating
        self.layer_scale_1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.layer_scale_2 = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, shared: _Pass, ring: Ring | SlotRing | None) -> Tensor:
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
        self.int8_cache = False
        """Whether states made from here on keep keys and values in int8."""

    def new_state(self, slots: int, ring: int | None = None, pins: int | None = None) -> TransformerState:
        """Fresh state for so many slots; ``ring`` is its capacity, by default the context (see kv_cache).

        With ``pins`` slots can be prefilled from any position on, and pin up to so many of their first positions.
        """
        config, weight = self.config, next(self.parameters())
        capacity = config.context if ring is None else ring
        device, dtype = weight.device, weight.dtype
        kind: type[RingKVCache] | type[Int8RingKVCache] = Int8RingKVCache if self.int8_cache else RingKVCache
        state = TransformerState(
            offset=torch.zeros(slots, device=device, dtype=torch.long),
            rings=[
                kind.allocate(slots, capacity, config.kv_heads, config.head_dim, device=device, dtype=dtype)
                for _ in self.layers
            ],
        )
        if pins is not None:
            state.layout = RingLayout(torch.zeros_like(state.offset), torch.zeros_like(state.offset))
        if pins:
            shape = (slots, pins, config.kv_heads, config.head_dim)
            state.sinks = [torch.zeros(shape, device=device, dtype=dtype) for _ in self.layers]
        return state

    def prefill(self, x: Tensor, state: TransformerState, slot: int, position: int) -> Tensor:
        """Take in the next positions ``x [1, T, dim]`` of one slot in one pass, as T steps would one by one.

        ``position`` is the first one's, after which only lower ones are in the ring; T is at most its capacity. The
        state must have been made with ``pins``. Returns ``[1, T, dim]``. Waits for the device.
        """
        assert x.shape[0] == 1, x.shape
        assert state.layout is not None
        length, device, capacity = x.shape[1], x.device, state.rings[0].capacity
        layout = state.layout.slot(slot)
        mask = torch.arange(state.offset.shape[0], device=device) == slot
        state.offset[slot] = position
        self._turn_pinned(state, mask, length)
        positions = torch.arange(position, position + length, device=device)[None]  # [1, T]
        last = torch.full_like(layout.start, position - 1)[:, None]
        before = layout.held(last, torch.arange(capacity, device=device)[None], capacity)
        there = (before >= layout.start[:, None]) | (before < layout.pinned[:, None])
        there &= (before >= 0) & (before < position)
        held = there[0].nonzero().squeeze(1)  # [S]
        keys = torch.cat([before[:, held], positions], dim=1)
        step = RingStep(
            rows=torch.zeros_like(positions[:, :1]),
            index=layout.index(positions, capacity),
            mask=None,
            taking_part=None,
            positions=positions,
            bias=causal_bias(positions, keys, self.config.context, x.dtype, layout),
            filled=last,
        )
        shared = _Pass(self._rotation(positions), step.bias, step)
        for layer, ring in zip(self.layers, state.rings, strict=True):
            x = layer(x, shared, SlotRing(ring, slot, held))
        state.offset[slot] = position + length
        return x

    def start_at(self, state: TransformerState, slot: int, position: int) -> None:
        """Let a slot's ring begin at ``position``: of what lies before it only pinned positions are seen."""
        assert state.layout is not None
        state.layout.start[slot] = position
        state.offset[slot] = position

    def pin(self, state: TransformerState, slot: int, count: int) -> None:
        """Keep a slot's first ``count`` positions, all of which it has seen and none lost, in sight for ever."""
        assert state.layout is not None
        assert state.sinks is not None
        assert count <= state.sinks[0].shape[1], count
        state.layout.pinned[slot] = count
        for ring, sink in zip(state.rings, state.sinks, strict=True):
            sink[slot, :count] = ring.read_keys(count)[slot]

    def _turn_pinned(self, state: TransformerState, mask: Tensor, length: int) -> None:
        """Let pinned keys follow the window: to a query they lie just before its oldest other key.

        So no distance exceeds the context that the model was trained with (arXiv 2309.17453, section 3.2).
        """
        if state.sinks is None or state.layout is None or self.config.max_period is None:
            return
        shift = (state.offset + length - state.rings[0].capacity).clamp_(min=0)
        by = rotation(shift[:, None], self.config.head_dim, self.config.max_period)  # [B, 1, 1, 1, D / 2]
        turn = rotate if self.config.rope == "rope" else rotate_halves
        pins = state.sinks[0].shape[1]
        places = torch.arange(pins, device=shift.device)
        pinned = (places < state.layout.pinned[:, None]) & mask[:, None]  # [B, P]
        for ring, sink in zip(state.rings, state.sinks, strict=True):
            ring.put_keys(turn(sink[:, :, None], by)[:, :, 0], pinned)

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
        capacity = state.rings[0].capacity
        self._turn_pinned(state, mask, length)
        step = RingStep.plan(state.offset, mask, length, capacity, self.config.context, x.dtype, state.layout)
        shared = _Pass(self._rotation(step.positions), step.bias, step)
        for layer, ring in zip(self.layers, state.rings, strict=True):
            x = layer(x, shared, ring)
        state.offset.add_(mask, alpha=length)
        return x

    def _rotation(self, positions: Tensor) -> Tensor | None:
        config = self.config
        return None if config.max_period is None else rotation(positions, config.head_dim, config.max_period)
