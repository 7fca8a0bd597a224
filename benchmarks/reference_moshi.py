"""The reference package's classes over our weights, for benchmarks that run both side by side.

    pip install --no-deps moshi==0.2.13 && pip install einops 'huggingface-hub<1' tqdm

Importing the package reads ``NO_TORCH_COMPILE``; whoever measures it eager sets it before.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from tests.model_runtime.reference import reference_lm, reference_mimi


class ReferenceMoshi:
    """The reference's codec and language model over ``slots`` conversations, stepped as its server steps them."""

    def __init__(self, mimi: Mimi, lm: LanguageModel, slots: int) -> None:
        from moshi.models.lm import LMGen

        table = lm.text_emb.weight
        with made_on(table.device, torch.float32):
            self.encoder, self.decoder = (
                reference_mimi(mimi.config, mimi.state_dict(), mimi.codebooks) for _ in range(2)
            )
        with made_on(table.device, table.dtype):
            self.generator = LMGen(reference_lm(lm.config, lm.state_dict()), support_out_of_sync=True)
        for part in (self.encoder, self.decoder, self.generator):
            part.streaming_forever(slots)

    def encode(self, audio: Tensor) -> Tensor:
        """Codes ``[B, 8, 1]`` of the next frame ``[B, 1, 1920]``."""
        codes: Tensor = self.encoder.encode(audio)
        return codes

    def generate(self, codes: Tensor) -> Tensor:
        """Text and own codes ``[B, 9, 1]`` after hearing ``codes [B, 8, 1]``."""
        tokens: Tensor = self.generator.step(codes)
        return tokens

    def decode(self, codes: Tensor) -> Tensor:
        """Audio ``[B, 1, 1920]`` of ``codes [B, 8, 1]``."""
        audio: Tensor = self.decoder.decode(codes)
        return audio

    @torch.inference_mode()
    def step(self, audio: Tensor) -> Tensor:
        """One frame in, one out, ``[B, 1, 1920]``."""
        tokens = self.generate(self.encode(audio))
        return self.decode(tokens[:, 1:].clamp(min=0))


@contextmanager
def made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Make new modules there and in this type, instead of on the CPU in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
