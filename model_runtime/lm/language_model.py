"""The language model: a temporal step per frame, then the depth steps within it. Runs on the engine thread.

Parameter names are those of the published checkpoints, hence the flat ``depformer_*`` and ``linears``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.layout import by_column
from model_runtime.lm.depth import DepthCache, DepthTransformer
from model_runtime.lm.user_convolutions import UserConvolutions
from model_runtime.transformer import Transformer, TransformerState, norm_layer

Choose = Callable[[int, Tensor], Tensor]
"""Picks the code ``[N]`` of depth step k from its logits ``[N, card]`` float32."""


@dataclass
class LanguageModelState:
    """What the temporal transformer remembers of each slot."""

    transformer: TransformerState
    user: list[Tensor]  # of the caller's convolutions, where there are some: [B, past, dim] each


class TokenEmbedding(nn.Embedding):
    """An embedding, where ``rank`` is given of that width and then projected to ``dim``."""

    def __init__(self, card: int, dim: int, rank: int | None) -> None:
        super().__init__(card, rank or dim)
        self.low_rank = nn.Linear(rank, dim, bias=False) if rank else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed ``tokens [...]`` as ``[..., dim]``."""
        row = super().forward(tokens)
        return row if self.low_rank is None else self.low_rank(row)


class LanguageModel(nn.Module):
    """Text and own audio codes of the next frame, from all streams so far."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, depth, rank = config.dim, config.depformer_dim, config.depformer_low_rank_embeddings
        self.text_emb = nn.Embedding(config.text_card + 1, dim)
        self.emb = nn.ModuleList(nn.Embedding(config.card + 1, dim) for _ in range(config.n_q))
        self.user_convolutions = UserConvolutions(dim, config.user_convolutions, config.norm)
        self.transformer = Transformer(config.temporal)
        self.out_norm = norm_layer(config.norm, dim)
        self.text_linear = nn.Linear(dim, config.text_card_generated, bias=False)
        self.extra_heads = nn.ModuleList(
            nn.Linear(dim, config.extra_heads_dim, bias=False) for _ in range(config.extra_heads_num_heads)
        )
        self.depformer_in = nn.ModuleList(nn.Linear(dim, depth, bias=False) for _ in range(config.depth_sets))
        if config.dep_q:
            self.depformer_text_emb = TokenEmbedding(config.text_card + 1, depth, rank)
        self.depformer_emb = nn.ModuleList(
            TokenEmbedding(config.card + 1, depth, rank) for _ in range(config.dep_q - 1)
        )
        self.depformer = DepthTransformer(config.depth, config.depth_schedule)
        self.depformer_norms = nn.ModuleList(
            norm_layer(config.depformer_norm, depth) if config.depformer_norm else nn.Identity()
            for _ in range(config.dep_q)
        )
        self.linears = nn.ModuleList(nn.Linear(depth, config.card, bias=False) for _ in range(config.dep_q))
        self._depth_in: Tensor | None = None  # [sets * depth, dim]

    def new_state(self, slots: int, ring: int | None = None, pins: int = 0) -> LanguageModelState:
        """Fresh state for so many slots; ``ring`` steps are remembered, by default the context.

        Up to ``pins`` first steps can be pinned (``Transformer.pin``).
        """
        return LanguageModelState(
            self.transformer.new_state(slots, ring, pins), self.user_convolutions.new_state(slots)
        )

    def prefill(self, inputs: Tensor, state: LanguageModelState, slot: int, position: int) -> None:
        """Take in the next steps of one slot, embedded as ``inputs [T, dim]``, in one pass."""
        self.transformer.prefill(inputs[None], state.transformer, slot, position)

    def embed(self, columns: Tensor, state: LanguageModelState, slot: int) -> Tensor:
        """What the temporal transformer is given for the next grid columns ``[T, K]`` of a slot: ``[T, dim]``."""
        user = [each[slot : slot + 1] for each in state.user]
        return self._embed(columns.T[None], user, torch.ones(1, dtype=torch.bool, device=columns.device))[0]

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Whole sequences: hidden ``[B, T, dim]`` and text logits ``[B, T, text_card]`` of inputs ``[B, K, T]``.

        The inputs are columns of the token grid: delays and initial tokens are already in them.
        """
        assert tokens.shape[1:-1] == (self.config.streams,), tokens.shape
        return self._heads(self.transformer(self._embed(tokens)))

    def step(self, tokens: Tensor, state: LanguageModelState, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden ``[B, dim]`` and text logits ``[B, text_card]`` float32 of one grid column ``tokens [B, K]``.

        The state of slots outside ``mask [B]`` stays as it is, and their output means nothing.
        """
        assert tokens.shape[1:] == (self.config.streams,), tokens.shape
        embedded = self._embed(tokens[..., None], state.user, mask)
        hidden, logits = self._heads(self.transformer(embedded, state.transformer, mask))
        return hidden[:, 0], logits[:, 0].float()

    def generate_codes(self, hidden: Tensor, text: Tensor, choose: Choose) -> Tensor:
        """The codes ``[N, dep_q]`` that ``choose`` picks in turn, given ``hidden [N, dim]`` and ``text [N]``."""
        if not self.config.dep_q:
            return text.new_empty(len(text), 0)
        cache = self.depformer.new_cache(hidden.shape[0])
        projected = self._depth_inputs(hidden)
        codes: list[Tensor] = []
        for k in range(self.config.dep_q):
            logits = self._depth_logits(k, projected, codes[-1] if codes else text, cache)
            codes.append(choose(k, logits.float()))
        return torch.stack(codes, dim=1)

    def depth_logits(self, hidden: Tensor, text: Tensor, codes: Tensor) -> Tensor:
        """Teacher-forced logits ``[N, dep_q, card]`` for ``hidden [N, dim]``, ``text [N]`` and ``codes [N, dep_q]``."""
        cache = self.depformer.new_cache(hidden.shape[0])
        projected = self._depth_inputs(hidden)
        given = [text, *codes.unbind(1)[:-1]]
        return torch.stack([self._depth_logits(k, projected, token, cache) for k, token in enumerate(given)], dim=1)

    def lay_out(self) -> None:
        """Make the projections into the depth steps one matrix, of which each is a part (model_runtime/layout.py)."""
        parts = [part.weight for part in self.depformer_in if isinstance(part, nn.Linear)]
        if parts and len(parts) == len(self.depformer_in):
            self._depth_in = by_column(torch.cat([part.data for part in parts]))
            for part, view in zip(parts, self._depth_in.chunk(len(parts)), strict=True):
                part.data = view

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # torch leaves it untyped
        """Forget what was laid out for another dtype or device."""
        self._depth_in = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _depth_inputs(self, hidden: Tensor) -> Sequence[Tensor]:
        """What the depth transformer's sets of weights make of ``hidden [N, dim]``: ``[N, depth]`` each."""
        if self._depth_in is None:
            return [part(hidden) for part in self.depformer_in]
        return F.linear(hidden, self._depth_in).chunk(len(self.depformer_in), dim=1)

    def _depth_logits(self, k: int, projected: Sequence[Tensor], previous: Tensor, cache: DepthCache) -> Tensor:
        embedding = self.depformer_emb[k - 1] if k else self.depformer_text_emb
        given = projected[self.config.depth_schedule[k]] + embedding(previous)
        out = self.depformer_norms[k](self.depformer(given, cache, k))
        logits: Tensor = self.linears[k](out)
        return logits

    def extra(self, hidden: Tensor) -> Tensor:
        """Probabilities ``[N, heads, extra_heads_dim]`` float32 of the extra heads for ``hidden [N, dim]``."""
        logits = [head(hidden).float() for head in self.extra_heads]
        return torch.stack(logits, dim=1).softmax(-1)

    def hear(self, codes: Tensor, state: Sequence[Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """What the caller's ``codes [B, n_q - own, T]`` bring to the temporal transformer: ``[B, T, dim]``.

        A whole sequence, or with ``state`` the next T frames of the slots in ``mask [B]``.
        """
        heard: Tensor = self.user_convolutions(_summed([*self.emb][-codes.shape[1] :], codes), state, mask)
        return heard

    def _embed(self, tokens: Tensor, state: Sequence[Tensor] | None = None, mask: Tensor | None = None) -> Tensor:
        """The sum of all streams ``[B, T, dim]`` of ``tokens [B, K, T]``; negative tokens add nothing."""
        if not len(self.user_convolutions):
            return _summed([self.text_emb, *self.emb], tokens)
        own = 1 + self.config.own_q
        tables = [self.text_emb, *self.emb][:own]
        return _summed(tables, tokens[:, :own]) + self.hear(tokens[:, own:], state, mask)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden: Tensor = self.out_norm(x)
        return hidden, self.text_linear(hidden)


def _summed(tables: Iterable[nn.Module], tokens: Tensor) -> Tensor:
    """The sum of embeddings ``[B, T, dim]`` of ``tokens [B, K, T]``, a table each; negative tokens add nothing."""
    present = tokens >= 0
    rows = tokens.clamp(min=0).unbind(1)  # [B, T] each
    stacked = torch.stack([table(row) for table, row in zip(tables, rows, strict=True)], dim=1)  # [B, K, T, dim]
    return (stacked * present[..., None].to(stacked.dtype)).sum(1)
