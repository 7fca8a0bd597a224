"""Training Mimi's quantizer: straight-through codes, codebooks that follow what they code, dead ones brought back.

Codebooks learn by exponential moving averages (arXiv 1711.00937, appendix A.1), kept in the sums and counts that the
published files hold. In several processes all see what all coded. Runs in the training process.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model_runtime.mimi.quantizer import Codebook, ResidualVectorQuantizer, SplitResidualVectorQuantizer
from model_runtime.training.mimi_losses import commitment_loss


@dataclass(frozen=True)
class CodebookSettings:
    """How the codebooks follow."""

    decay: float = 0.99
    dead: float = 0.1
    """A centroid is replaced when it codes less than this part of its share (the reference's 0.1)."""
    refill_every: int = 5
    """Steps between looks for dead centroids."""
    unquantized: float = 0.5
    """Part of the recordings that pass unquantized (the paper's 50 %, arXiv 2410.00037, section 3.3.2)."""
    dropout: bool = True
    """Whether the others use a random number of codebooks, the semantic one always (arXiv 2107.03312)."""
    warmup: int = 0
    """First steps, in which all recordings pass unquantized and codebooks are not begun (reference/tiny.md: 300)."""
    kmeans: int = 10
    """Steps of Lloyd's algorithm on the first batch after them."""


@dataclass(frozen=True)
class Quantized:
    """What became of a latent."""

    latent: Tensor  # [B, C, T], straight-through
    codes: Tensor  # [B, n_q, T]
    semantic: Tensor  # [B, dim, T]: the first codebook's vectors, straight-through
    commitment: Tensor  # []


class QuantizerTraining(nn.Module):
    """The training-time pass of a split quantizer, whose buffers it updates while in training mode."""

    steps: Tensor
    begun: Tensor

    def __init__(self, quantizer: SplitResidualVectorQuantizer, settings: CodebookSettings, n_q: int) -> None:
        super().__init__()
        self.quantizer = quantizer
        self._settings = settings
        self._n_q = n_q
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def begin(self, begun: bool) -> None:
        """Say whether the codebooks are trained already (a published codec's), or start from the first batch."""
        self.begun = torch.full_like(self.begun, begun)

    def forward(self, latent: Tensor, random: torch.Generator) -> Quantized:
        """Quantize ``latent [B, C, T]``; in training mode codebooks learn, and recordings drop codebooks or all."""
        first, rest = self.quantizer.rvq_first, self.quantizer.rvq_rest
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent.float()
            inputs = first.input_proj(latent), rest.input_proj(latent)  # [B, dim, T] each
            if self.training and self.steps < self._settings.warmup:
                self.steps += 1
                codes = torch.zeros(len(latent), self._n_q, latent.shape[-1], dtype=torch.long, device=latent.device)
                through = first.output_proj(inputs[0]) + rest.output_proj(inputs[1])
                return Quantized(through, codes, inputs[0], latent.new_zeros(()))
            used = self._used(len(latent), random).to(latent.device)  # [B]
            semantic = self._chain(first, inputs[0], torch.ones_like(used), 1, random)
            acoustic = self._chain(rest, inputs[1], used - 1, self._n_q - 1, random)
            if self.training:
                self.steps += 1
                self.begun.fill_(True)
                plain = (torch.rand(len(latent), generator=random) < self._settings.unquantized).to(latent.device)
                spoken = [
                    torch.where(plain[:, None, None], given, coded.vector)
                    for given, coded in zip(inputs, (semantic, acoustic), strict=True)
                ]
            else:
                spoken = [semantic.vector, acoustic.vector]
            out = first.output_proj(spoken[0]) + rest.output_proj(spoken[1])
        commitment = (semantic.commitment + acoustic.commitment) / self._n_q
        return Quantized(out, torch.cat([semantic.codes, acoustic.codes], dim=1), semantic.vector, commitment)

    def _used(self, batch: int, random: torch.Generator) -> Tensor:
        """How many codebooks each recording uses ``[B]``."""
        if not (self.training and self._settings.dropout):
            return torch.full((batch,), self._n_q)
        return torch.randint(2, self._n_q + 1, (batch,), generator=random)

    def _chain(
        self, chain: ResidualVectorQuantizer, given: Tensor, used: Tensor, n_q: int, random: torch.Generator
    ) -> "_Coded":
        """Code ``given [B, dim, T]``; of its vectors a recording hears the first ``used [B]``."""
        batch, dim, length = given.shape
        rest = given.transpose(1, 2).reshape(-1, dim)  # [B * T, dim]
        heard = used.repeat_interleave(length)[:, None]  # [B * T, 1]
        total, commitment, codes = torch.zeros_like(rest), given.new_zeros(()), []
        for k, codebook in enumerate(chain.codebooks[:n_q]):
            index, vector = self._code(codebook, rest.detach(), random)
            codes.append(index.view(batch, length))
            commitment = commitment + commitment_loss(rest, vector)
            total = total + vector * (k < heard)
            rest = rest - vector
        quantized = total.view(batch, length, dim).transpose(1, 2)
        return _Coded(given + (quantized - given).detach(), torch.stack(codes, dim=1), commitment)

    @torch.no_grad()
    def _code(self, codebook: Codebook, x: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """The indices ``[N]`` and centroids ``[N, dim]`` nearest to ``x [N, dim]``, by which the codebook learns."""
        settings = self._settings
        if self.training and not self.begun:
            start(codebook, x, settings.kmeans, random)
        index = codebook.nearest(x)
        vector = codebook.centroids[index]
        if self.training:
            due = int(self.steps) % settings.refill_every == settings.refill_every - 1
            learn(codebook, x, index, settings, random if due else None)
        return index, vector


@dataclass(frozen=True)
class _Coded:
    vector: Tensor  # [B, dim, T], straight-through
    codes: Tensor  # [B, n_q, T]
    commitment: Tensor  # []


@torch.no_grad()
def start(codebook: Codebook, x: Tensor, steps: int, random: torch.Generator) -> None:
    """Place the centroids among ``x [N, dim]`` by k-means; all processes take the first one's."""
    bins = len(codebook.centroids)
    centroids = _drawn(x, bins, random)
    counts = x.new_ones(bins)
    for _ in range(steps):
        nearest = torch.cdist(x, centroids).argmin(-1)
        counts = torch.bincount(nearest, minlength=bins).to(x.dtype)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, x)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
    if dist.is_initialized():
        dist.broadcast(centroids, 0)
    share = len(x) / bins * (dist.get_world_size() if dist.is_initialized() else 1)
    codebook.cluster_usage.fill_(share)
    codebook.embedding_sum.copy_(centroids * share)
    codebook._initialized.fill_(1)
    codebook.refresh()


@torch.no_grad()
def learn(
    codebook: Codebook, x: Tensor, index: Tensor, settings: CodebookSettings, refill: torch.Generator | None
) -> None:
    """Let the centroids follow the ``x [N, dim]`` they coded; with ``refill`` dead ones become some of these."""
    bins = len(codebook.centroids)
    counts = torch.bincount(index, minlength=bins).to(x.dtype)
    sums = torch.zeros_like(codebook.embedding_sum).index_add_(0, index, x)
    if dist.is_initialized():
        dist.all_reduce(counts)
        dist.all_reduce(sums)
    codebook.cluster_usage.lerp_(counts, 1 - settings.decay)
    codebook.embedding_sum.lerp_(sums, 1 - settings.decay)
    if refill is not None:
        share = codebook.cluster_usage.sum() / bins
        dead = codebook.cluster_usage < settings.dead * share
        fresh = _drawn(x, bins, refill)
        if dist.is_initialized():
            dist.broadcast(fresh, 0)
        codebook.cluster_usage.copy_(torch.where(dead, share, codebook.cluster_usage))
        codebook.embedding_sum.copy_(torch.where(dead[:, None], fresh * share, codebook.embedding_sum))
    codebook.refresh()


def _drawn(x: Tensor, count: int, random: torch.Generator) -> Tensor:
    """So many of ``x [N, dim]``, each at most as often as needed."""
    turns = [torch.randperm(len(x), generator=random) for _ in range(-(-count // len(x)))]
    return x[torch.cat(turns)[:count].to(x.device)].clone()
