"""Low-rank adapters (arXiv 2106.09685) on every linear layer of a language model.

``y = W x + scaling * B A x`` with W frozen. The fused matrices of attention have an adapter per set of weights, as the
reference's; ``training.export`` writes them under published names. Runs in the training process.
"""

from collections.abc import Iterator
from math import sqrt
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config_file import LoraConfig
from model_runtime.kernels.elementwise import rotate
from model_runtime.kv_cache import Ring, SlotRing, attend_over
from model_runtime.lm.depth import DepthAttention
from model_runtime.lm.language_model import LanguageModel
from model_runtime.transformer import SelfAttention, rotate_halves

if TYPE_CHECKING:
    from model_runtime.transformer import _Pass

_EMBEDDINGS: Final = ("text_emb.", "emb.", "depformer_text_emb.", "depformer_emb.")


class LowRank(nn.Module):
    """``scaling * B A x``, for one or several sets of weights; nothing before it has been trained."""

    def __init__(self, weight: Tensor, sets: int, config: LoraConfig, random: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.rank = config.rank
        self.scaling = config.scaling
        bound = 1 / sqrt(columns)  # that of nn.Linear
        drawn = torch.rand(sets * config.rank, columns, generator=random) * 2 * bound - bound
        self.down = nn.Parameter(drawn.to(weight.device))  # A [sets * rank, in] float32
        self.up = nn.Parameter(torch.zeros(rows, config.rank, device=weight.device))  # B [sets * out, rank] float32
        self.sets = sets

    def forward(self, x: Tensor, number: int = 0) -> Tensor:
        """What the adapter of set ``number`` adds for ``x [..., in]``: ``[..., out]``."""
        down, up = self.down.view(self.sets, self.rank, -1), self.up.view(self.sets, -1, self.rank)
        return self.scaling * F.linear(F.linear(x.to(down.dtype), down[number]), up[number])

    def product(self) -> Tensor:
        """What the adapter adds to the weight ``[sets * out, in]``, float32."""
        down, up = self.down.view(self.sets, self.rank, -1), self.up.view(self.sets, -1, self.rank)
        return self.scaling * (up @ down).flatten(0, 1)


class LoraLinear(nn.Linear):
    """A frozen linear layer without bias and its adapter; the weight keeps its name."""

    def __init__(self, layer: nn.Linear, config: LoraConfig, random: torch.Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        assert layer.bias is None
        self.weight = layer.weight
        self.lora: LowRank = LowRank(layer.weight, 1, config, random)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., in]`` to ``[..., out]``."""
        y = F.linear(x, self.weight)
        added: Tensor = self.lora(x)
        return y + added.to(y.dtype)


class LoraSelfAttention(SelfAttention):
    """Attention of the temporal transformer whose fused projection has an adapter."""

    def __init__(self, base: SelfAttention, config: LoraConfig, random: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.heads, self.kv_heads, self._interleaved = base.heads, base.kv_heads, base._interleaved
        self.in_proj_weight = base.in_proj_weight
        self.register_buffer("in_proj_weight_scb", None)
        self.in_proj_lora = LowRank(base.in_proj_weight, 1, config, random)
        self.out_proj = LoraLinear(base.out_proj, config, random)

    def forward(self, x: Tensor, shared: "_Pass", ring: Ring | SlotRing | None) -> Tensor:
        """Attend over ``x [B, T, dim]`` as the base does."""
        batch, length, dim = x.shape
        heads, kv_heads = self.heads, self.kv_heads
        qkv = F.linear(x, self.in_proj_weight)
        qkv = qkv + self.in_proj_lora(x).to(qkv.dtype)
        qkv = qkv.view(batch, length, 1, heads + 2 * kv_heads, dim // heads)
        turning, values = qkv.split([heads + kv_heads, kv_heads], dim=3)
        if shared.rotation is not None:
            turning = (rotate if self._interleaved else rotate_halves)(turning, shared.rotation)
        query = turning[:, :, 0, :heads].transpose(1, 2)  # [B, H, T, D]
        kv = torch.cat([turning[:, :, :, heads:], values], dim=2)  # [B, T, 2, KV, D]
        if ring is not None and shared.ring is not None:
            heard = ring.attend(query, kv, shared.ring)
        else:
            keys, heads_values = kv.permute(2, 0, 3, 1, 4)  # [B, KV, T, D]
            heard = attend_over(query, keys, heads_values, shared.bias)
        return cast(Tensor, self.out_proj(heard.transpose(1, 2).flatten(2)))


def add_adapters(
    lm: LanguageModel, config: LoraConfig, random: torch.Generator, *, embeddings: bool = False
) -> LanguageModel:
    """Freeze ``lm``, in place, and give every linear layer an adapter; ``embeddings`` are trained as they are."""
    lm.requires_grad_(False)
    _adapt(lm, config, random)
    if embeddings:
        for name, parameter in lm.named_parameters():
            if name.startswith(_EMBEDDINGS) and ".lora." not in name:
                parameter.requires_grad_(True)
    return lm


def _adapt(module: nn.Module, config: LoraConfig, random: torch.Generator) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, SelfAttention):
            setattr(module, name, LoraSelfAttention(child, config, random))
        elif isinstance(child, DepthAttention):
            sets = child.out_proj.out_features // child.dim
            child.in_proj_lora = LowRank(child.in_proj_weight, sets, config, random)
            child.out_proj_lora = LowRank(child.out_proj.weight, sets, config, random)
        elif isinstance(child, nn.Linear):
            setattr(module, name, LoraLinear(child, config, random))
        else:
            _adapt(child, config, random)


def adapters(lm: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Every adapter, with the name of the weight it belongs to."""
    for path, module in lm.named_modules():
        if isinstance(module, LowRank):
            prefix, _, leaf = path.rpartition(".")
            weight = {"lora": "weight", "in_proj_lora": "in_proj_weight", "out_proj_lora": "out_proj.weight"}[leaf]
            yield f"{prefix}.{weight}", module


@torch.no_grad()
def merged(lm: LanguageModel) -> dict[str, Tensor]:
    """The state dict of the model without adapters, their products added in float32."""
    products = {name: module.product() for name, module in adapters(lm)}
    out = {}
    for name, tensor in lm.state_dict().items():
        if ".lora." in name or "_lora." in name:
            continue
        out[name] = (tensor.float() + products[name]).to(tensor.dtype) if name in products else tensor
    return out
