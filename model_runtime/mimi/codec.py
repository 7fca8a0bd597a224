"""Mimi: 24 kHz audio to codes at 12.5 Hz and back, offline or streaming over slots. Runs on the engine thread.

Parameter names are those of the published checkpoint. Weights and state are float32, as in the reference.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from model_runtime.checkpoint.config import MimiConfig, TransformerConfig
from model_runtime.mimi.conv import Conv1dState, ConvTranspose1dState, StreamingConv1d, StreamingConvTranspose1d
from model_runtime.mimi.quantizer import SplitResidualVectorQuantizer
from model_runtime.mimi.seanet import SeanetDecoder, SeanetEncoder, SeanetState
from model_runtime.transformer import Transformer, TransformerState


@dataclass
class EncoderState:
    """What encoding remembers of each slot."""

    seanet: SeanetState
    transformer: TransformerState
    downsample: Conv1dState


@dataclass
class DecoderState:
    """What decoding remembers of each slot."""

    upsample: ConvTranspose1dState
    transformer: TransformerState
    seanet: SeanetState


class _LatentTransformer(nn.Module):
    """A transformer over latents ``[B, C, T]``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config)

    def forward(self, x: Tensor, state: TransformerState | None = None, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.transformer(x.transpose(1, 2), state, mask)
        return y.transpose(1, 2)


class _Downsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = StreamingConv1d(dim, dim, 4, stride=2, bias=False, padding="replicate")


class _Upsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convtr = StreamingConvTranspose1d(dim, dim, 4, stride=2, groups=dim, bias=False)


class Mimi(nn.Module):
    """The codec, encoding to the first ``codebooks`` of the ``n_q`` that its checkpoint holds.

    Codebooks are nested: the first of more are those of fewer, and fewer can be decoded.
    """

    def __init__(self, config: MimiConfig, codebooks: int = 8) -> None:
        super().__init__()
        assert 2 <= codebooks <= config.n_q, (codebooks, config.n_q)
        self.config = config
        self.codebooks = codebooks
        self.frame_samples = 2 * config.seanet.hop
        dim = config.seanet.dimension
        self.encoder = SeanetEncoder(config.seanet)
        self.decoder = SeanetDecoder(config.seanet)
        self.encoder_transformer = _LatentTransformer(config.transformer)
        self.decoder_transformer = _LatentTransformer(config.transformer)
        self.downsample = _Downsample(dim)
        self.upsample = _Upsample(dim)
        self.quantizer = SplitResidualVectorQuantizer(dim, config.codebook_dim, config.bins, config.n_q)

    def encode(self, audio: Tensor) -> Tensor:
        """Codes ``[B, K, T]`` of whole recordings ``audio [B, 1, T * 1920]``."""
        return self._encode(audio, None, None)

    def decode(self, codes: Tensor) -> Tensor:
        """Audio ``[B, 1, T * 1920]`` of whole recordings ``codes [B, K, T]``."""
        return self._decode(codes, None, None)

    def new_encoder_state(self, slots: int, ring: int | None = None) -> EncoderState:
        """Fresh encoding state.

        ``ring`` is the capacity of the transformer's ring: by default the context (250), as the deployed reference;
        the context + 1 makes streaming equal to ``encode``.
        """
        return EncoderState(
            seanet=self.encoder.new_state(slots),
            transformer=self.encoder_transformer.transformer.new_state(slots, ring),
            downsample=self.downsample.conv.new_state(slots),
        )

    def new_decoder_state(self, slots: int, ring: int | None = None) -> DecoderState:
        """Fresh decoding state; ``ring`` as in ``new_encoder_state``."""
        return DecoderState(
            upsample=self.upsample.convtr.new_state(slots),
            transformer=self.decoder_transformer.transformer.new_state(slots, ring),
            seanet=self.decoder.new_state(slots),
        )

    def encode_step(self, audio: Tensor, state: EncoderState, mask: Tensor) -> Tensor:
        """Codes ``[B, K]`` int64 of the next frame ``audio [B, 1, 1920]``.

        The state of slots outside ``mask [B]`` stays as it is, and their codes mean nothing.
        """
        assert audio.shape[1:] == (1, self.frame_samples), audio.shape
        return self._encode(audio, state, mask).squeeze(-1)

    def encode_frames(self, audio: Tensor, state: EncoderState, mask: Tensor) -> Tensor:
        """Codes ``[B, K, T]`` of the next T frames at once, ``audio [B, 1, T * 1920]``, else as ``encode_step``.

        Equal to T steps as long as the ring is not full; afterwards the first frames see fewer keys (see kv_cache).
        """
        return self._encode(audio, state, mask)

    def decode_frames(self, codes: Tensor, state: DecoderState, mask: Tensor) -> Tensor:
        """Audio ``[B, 1, T * 1920]`` of the next ``codes [B, K, T]`` at once; ``encode_frames`` says what is equal."""
        assert 2 <= codes.shape[1] <= self.codebooks, codes.shape
        return self._decode(codes, state, mask)

    def decode_step(self, codes: Tensor, state: DecoderState, mask: Tensor) -> Tensor:
        """Audio ``[B, 1, 1920]`` of the next ``codes [B, K]``, which lie in 0 .. bins - 1 in every slot.

        The state of slots outside ``mask [B]`` stays as it is, and their audio means nothing.
        """
        assert 2 <= codes.shape[1] <= self.codebooks, codes.shape
        return self._decode(codes[..., None], state, mask)

    def _encode(self, audio: Tensor, state: EncoderState | None, mask: Tensor | None) -> Tensor:
        assert audio.shape[1] == 1, audio.shape
        assert audio.shape[-1] % self.frame_samples == 0, audio.shape
        x = self.encoder(audio, state and state.seanet, mask)  # [B, C, 2 T]
        x = self.encoder_transformer(x, state and state.transformer, mask)
        x = self.downsample.conv(x, state and state.downsample, mask)  # [B, C, T]
        return self.quantizer.encode(x, self.codebooks)

    def _decode(self, codes: Tensor, state: DecoderState | None, mask: Tensor | None) -> Tensor:
        x = self.quantizer.decode(codes)  # [B, C, T]
        x = self.upsample.convtr(x, state and state.upsample, mask)  # [B, C, 2 T]
        x = self.decoder_transformer(x, state and state.transformer, mask)
        audio: Tensor = self.decoder(x, state and state.seanet, mask)
        return audio
