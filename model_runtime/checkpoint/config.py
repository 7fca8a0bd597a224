"""The shapes of a Moshi checkpoint: the published hyper-parameters as types. Owns no tensors, reads no files.

Field names are those of the published config.json where it has one. The default values are the published ones:
``LanguageModelConfig()`` is the 7B of moshiko and moshika, ``MimiConfig()`` is Mimi at 24 kHz (arXiv 2410.00037).
"""

from dataclasses import dataclass, field
from math import prod
from typing import Literal

Norm = Literal["layer_norm", "layer_norm_f32", "rms_norm", "rms_norm_f32"]
Rope = Literal["rope", "rope_concat"]
"""How a head's numbers pair up when they are rotated: neighbours, or the first half with the second."""


@dataclass(frozen=True)
class TransformerConfig:
    """One stack of causal pre-norm layers."""

    dim: int
    num_heads: int
    num_layers: int
    hidden: int
    """Width between the two matrices of the feed-forward part; behind the gate where there is one."""
    context: int
    """Positions a query sees, itself included."""
    norm: Norm
    gating: bool
    """SiLU-gated feed-forward; otherwise plain GELU."""
    layer_scale: bool
    max_period: float | None = 10_000.0
    """Base of the rotary embedding; None: no positional embedding."""
    rope: Rope = "rope"
    kv_repeat: int = 1
    """Query heads that share one head of keys and values (arXiv 2305.13245)."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys, and as many of values."""
        return self.num_heads // self.kv_repeat


@dataclass(frozen=True)
class SeanetConfig:
    """The convolutional encoder and decoder of Mimi."""

    dimension: int = 512
    n_filters: int = 64
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    """Strides of the decoder, outermost last; the encoder has them reversed."""
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    compress: int = 2

    @property
    def hop(self) -> int:
        """Samples per latent position."""
        return prod(self.ratios)


@dataclass(frozen=True)
class MimiConfig:
    """The codec: SEANet, a transformer on either side of the quantizer, split residual vector quantization."""

    seanet: SeanetConfig = SeanetConfig()
    num_heads: int = 8
    num_layers: int = 8
    dim_feedforward: int = 2048
    context: int = 250
    max_period: float = 10_000.0
    codebook_dim: int = 256
    bins: int = 2048
    n_q: int = 32
    """Codebooks in the file: one semantic, the rest acoustic."""

    @property
    def transformer(self) -> TransformerConfig:
        """Either of the two transformers."""
        return TransformerConfig(
            dim=self.seanet.dimension,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            hidden=self.dim_feedforward,
            context=self.context,
            norm="layer_norm",
            gating=False,
            layer_scale=True,
            max_period=self.max_period,
        )


def gated_hidden(dim: int, dim_feedforward: int) -> int:
    """Width behind the SiLU gate for a nominal feed-forward width, by the reference's rule."""
    return 21 * dim // 8 if dim_feedforward == 4 * dim else 2 * dim_feedforward // 3


_MOSHI_DELAYS = (0, *(0, 1, 1, 1, 1, 1, 1, 1) * 2)


@dataclass(frozen=True)
class LanguageModelConfig:
    """The temporal transformer, the depth transformer and the token streams between them.

    Streams in order: text, ``dep_q`` own audio codes, ``n_q - dep_q`` user audio codes.
    """

    dim: int = 4096
    num_heads: int = 32
    num_layers: int = 32
    hidden_scale: float = 4.125
    context: int = 3000
    max_period: float = 10_000.0
    norm: Norm = "rms_norm_f32"
    positional_embedding: Rope = "rope"
    kv_repeat: int = 1
    text_card: int = 32_000
    text_card_out: int | None = None
    """Text ids that can be generated, where they are fewer than those that can be read."""
    card: int = 2048
    n_q: int = 16
    dep_q: int = 8
    delays: tuple[int, ...] = field(default=_MOSHI_DELAYS)
    """Steps by which each stream lags; text first."""
    depformer_dim: int = 1024
    depformer_num_heads: int = 16
    depformer_num_layers: int = 6
    depformer_dim_feedforward: int = 4224
    depformer_kv_repeat: int = 1
    depformer_norm: Norm | None = None
    """A norm of its own before each output head of the depth transformer."""
    depformer_weights_per_step_schedule: tuple[int, ...] | None = None
    """Which set of weights each depth step uses; None: one set per step."""
    depformer_low_rank_embeddings: int | None = None
    """Width of the depth transformer's token embeddings before they are projected to its own."""
    user_convolutions: tuple[int, ...] = ()
    """Dilations of causal convolutions over the caller's stream, which Moshi has none of (lm/user_convolutions.py)."""
    extra_heads_num_heads: int = 0
    """Linear heads beside the text head; a speech-to-text model predicts pauses with them."""
    extra_heads_dim: int = 6

    def __post_init__(self) -> None:
        """Refuse delays or a schedule that do not fit the streams, and heads that do not divide."""
        if len(self.delays) != self.streams or min(self.delays) < 0:
            raise ValueError(f"delays: {self.streams} non-negative integers are needed, got {self.delays}")
        if not 0 <= self.dep_q <= self.n_q:
            raise ValueError(f"dep_q: 0 to n_q = {self.n_q} is possible, got {self.dep_q}")
        if len(self.depth_schedule) != self.dep_q or min(self.depth_schedule, default=0) < 0:
            raise ValueError(
                f"depformer_weights_per_step_schedule: {self.dep_q} non-negative integers are needed, "
                f"got {self.depth_schedule}"
            )
        for stack in (self.temporal, self.depth):
            if stack.dim % (2 * stack.num_heads) or stack.num_heads % stack.kv_repeat:
                raise ValueError(
                    f"width {stack.dim}, {stack.num_heads} heads and kv_repeat {stack.kv_repeat} do not divide evenly"
                )

    @property
    def own_q(self) -> int:
        """Own audio codes among the streams, generated or not; the others are the caller's."""
        return self.dep_q if self.dep_q < self.n_q else self.n_q // 2

    @property
    def depth_schedule(self) -> tuple[int, ...]:
        """The set of weights that each depth step uses."""
        return self.depformer_weights_per_step_schedule or tuple(range(self.dep_q))

    @property
    def depth_sets(self) -> int:
        """Sets of weights in the depth transformer."""
        return max(self.depth_schedule, default=-1) + 1

    @property
    def text_card_generated(self) -> int:
        """Text ids that can be generated."""
        return self.text_card if self.text_card_out is None else self.text_card_out

    @property
    def streams(self) -> int:
        """Rows of the token grid: text and all audio codes."""
        return 1 + self.n_q

    @property
    def text_initial(self) -> int:
        """The text id that stands before the first one."""
        return self.text_card

    @property
    def audio_initial(self) -> int:
        """The audio id that stands before the first one."""
        return self.card

    @property
    def temporal(self) -> TransformerConfig:
        """The temporal transformer: one position per frame."""
        return TransformerConfig(
            dim=self.dim,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            hidden=gated_hidden(self.dim, int(self.hidden_scale * self.dim)),
            context=self.context,
            norm=self.norm,
            gating=True,
            layer_scale=False,
            max_period=self.max_period,
            rope=self.positional_embedding,
            kv_repeat=self.kv_repeat,
        )

    @property
    def depth(self) -> TransformerConfig:
        """The depth transformer: ``dep_q`` positions within one frame; no layers where none are generated."""
        return TransformerConfig(
            dim=self.depformer_dim,
            num_heads=self.depformer_num_heads,
            num_layers=self.depformer_num_layers if self.dep_q else 0,
            hidden=gated_hidden(self.depformer_dim, self.depformer_dim_feedforward),
            context=self.dep_q,
            norm=self.norm,
            gating=True,
            layer_scale=False,
            max_period=None,
            kv_repeat=self.depformer_kv_repeat,
        )
