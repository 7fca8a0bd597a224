"""Embeddings of the caller's codes that are the codec's centroids, and a projection of them that is learnt.

Two codes that sound alike so stay alike whatever is learnt, and voices that were never heard are not strange
(reference/tiny.md, part C). It is a way to train: what is exported is an ordinary table. Runs in the training process.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi

_SIZE = 0.5
"""Root mean square of what a frame's semantic code begins as, and of what its acoustic codes sum to."""


class Projected(nn.Module):
    """A table's rows from fixed vectors; its last row, of the initial token, is learnt by itself."""

    def __init__(self, vectors: Tensor, projection: nn.Linear) -> None:
        """``vectors [bins, C]``; ``projection`` from C to the model's width may belong to several tables."""
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.projection = projection

    def forward(self, initial: Tensor) -> Tensor:
        """The table ``[bins + 1, dim]``."""
        return torch.cat([self.projection(self.vectors), initial])

    def right_inverse(self, table: Tensor) -> Tensor:
        """What of a table is its own: the last row."""
        return table[-1:].clone()


@torch.no_grad()
def project_codebooks(lm: LanguageModel, mimi: Mimi, random: torch.Generator | None) -> None:
    """Let the caller's embeddings be projections of the codec's centroids: one for semantic codes, one for the others.

    With ``random`` the projections are new; without, those that come nearest to the tables as they are.
    """
    own = lm.config.own_q
    for chain, first in ((mimi.quantizer.rvq_first, 0), (mimi.quantizer.rvq_rest, 1)):
        books = torch.stack(
            [book.centroids for book in chain.codebooks[: 1 if first == 0 else own - 1]]
        )  # [Q, bins, C]
        centred = books - books.mean(1, keepdim=True)
        vectors = centred / centred.square().mean((1, 2)).sum().sqrt()
        tables = [cast(nn.Embedding, lm.emb[own + first + k]) for k in range(len(vectors))]
        projection = nn.Linear(vectors.shape[-1], lm.config.dim, bias=False)
        if random is None:
            rows = torch.stack([table.weight[:-1] for table in tables]).flatten(0, 1)
            projection.weight.copy_(torch.linalg.lstsq(vectors.flatten(0, 1), rows).solution.T)
        else:
            drawn = torch.randn(projection.weight.shape, generator=random)
            projection.weight.copy_(drawn * (_SIZE / vectors.shape[-1] ** 0.5))
        for table, each in zip(tables, vectors, strict=True):
            parametrize.register_parametrization(table, "weight", Projected(each, projection))


def settle_tables(lm: LanguageModel) -> LanguageModel:
    """Make ordinary tables of projected ones, in place."""
    for table in lm.emb:
        if parametrize.is_parametrized(table):
            parametrize.remove_parametrizations(table, "weight", leave_parametrized=True)
    return lm
