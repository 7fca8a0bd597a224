"""Split residual vector quantization (arXiv 2410.00037, section 3.3.2). Runs on the engine thread.

The first codebook, the semantic one, and the residual chain of acoustic ones read the same latent.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Codebook(nn.Module):
    """Centroids, stored as the sums and counts of the moving average they were trained with."""

    _initialized: Tensor
    cluster_usage: Tensor
    embedding_sum: Tensor
    centroids: Tensor
    half_norms: Tensor

    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("_initialized", torch.ones(1))
        self.register_buffer("cluster_usage", torch.ones(bins))
        self.register_buffer("embedding_sum", torch.zeros(bins, dim))
        self.register_buffer("centroids", torch.zeros(bins, dim), persistent=False)  # [bins, dim]
        self.register_buffer("half_norms", torch.zeros(bins), persistent=False)  # [bins]
        self.register_load_state_dict_post_hook(lambda module, _: module.refresh())  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the centroids from their sums; loading a state dict does it by itself."""
        self.centroids = self.embedding_sum / self.cluster_usage.clamp(min=1e-5)[:, None]
        self.half_norms = self.centroids.square().sum(-1) / 2

    def nearest(self, x: Tensor) -> Tensor:
        """Index ``[N]`` of the centroid nearest to each ``x [N, dim]`` by Euclidean distance."""
        return torch.addmm(self.half_norms, x, self.centroids.t(), alpha=-1).argmin(-1)


class _CodebookLayer(nn.Module):
    def __init__(self, bins: int, dim: int) -> None:
        super().__init__()
        self._codebook = Codebook(bins, dim)


class _Chain(nn.Module):
    def __init__(self, bins: int, dim: int, n_q: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_CodebookLayer(bins, dim) for _ in range(n_q))


class ResidualVectorQuantizer(nn.Module):
    """A chain of codebooks, each coding what the ones before left over, between two 1x1 projections."""

    def __init__(self, latent: int, dim: int, bins: int, n_q: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv1d(latent, dim, 1, bias=False)
        self.output_proj = nn.Conv1d(dim, latent, 1, bias=False)
        self.vq = _Chain(bins, dim, n_q)

    @property
    def codebooks(self) -> list[Codebook]:
        """The codebooks, coarse to fine."""
        return [layer._codebook for layer in self.vq.layers if isinstance(layer, _CodebookLayer)]

    def encode(self, latent: Tensor, n_q: int) -> Tensor:
        """Codes ``[B, n_q, T]`` of ``latent [B, C, T]``."""
        batch, _, length = latent.shape
        rest = self.input_proj(latent).transpose(1, 2).flatten(0, 1)  # [B * T, dim]
        codes = []
        for codebook in self.codebooks[:n_q]:
            codes.append(codebook.nearest(rest))
            rest = rest - codebook.centroids[codes[-1]]
        return torch.stack(codes).view(n_q, batch, length).transpose(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Latent ``[B, C, T]`` of ``codes [B, n_q, T]``."""
        books = self.codebooks[: codes.shape[1]]
        total = torch.stack([F.embedding(codes[:, k], book.centroids) for k, book in enumerate(books)]).sum(0)
        projected: Tensor = self.output_proj(total.transpose(1, 2))
        return projected


class SplitResidualVectorQuantizer(nn.Module):
    """One semantic codebook beside a residual chain of acoustic ones."""

    def __init__(self, latent: int, dim: int, bins: int, n_q: int) -> None:
        super().__init__()
        self.rvq_first = ResidualVectorQuantizer(latent, dim, bins, 1)
        self.rvq_rest = ResidualVectorQuantizer(latent, dim, bins, n_q - 1)

    def encode(self, latent: Tensor, n_q: int) -> Tensor:
        """Codes ``[B, n_q, T]`` of ``latent [B, C, T]``, the semantic one first; ``n_q`` of at least 2."""
        return torch.cat([self.rvq_first.encode(latent, 1), self.rvq_rest.encode(latent, n_q - 1)], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Latent ``[B, C, T]`` of ``codes [B, n_q, T]``."""
        return self.rvq_first.decode(codes[:, :1]) + self.rvq_rest.decode(codes[:, 1:])
