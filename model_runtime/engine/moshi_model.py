"""Moshi as the engine steps it: 16-bit audio and numpy on one side, torch on the other."""

import numpy as np
import torch
from numpy.typing import NDArray

from config.audio import FRAME_SAMPLES
from model_runtime.engine.model import Samples, SamplingOptions, StepOutput
from model_runtime.moshi import Moshi
from model_runtime.sampling import Sampling
from model_runtime.text import TextTokenizer

_FULL_SCALE = 32_768


class MoshiModel:
    """Adapts ``Moshi`` to the engine's ``Model``; a slot that is not ready yet gives silence and no text."""

    def __init__(self, moshi: Moshi, tokenizer: TextTokenizer) -> None:
        self._moshi = moshi
        self._tokenizer = tokenizer
        self.slots = moshi.slots

    def warm_up(self) -> None:
        """Make one step for nobody, so that the first caller does not wait for torch's first-time work."""
        self.step(np.zeros((self.slots, FRAME_SAMPLES), np.int16), np.ones(self.slots, np.bool_))

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Begin a new conversation in the slot."""
        options = Sampling(
            audio_temperature=sampling.audio_temperature,
            audio_top_k=sampling.audio_top_k,
            text_temperature=sampling.text_temperature,
            text_top_k=sampling.text_top_k,
        )
        with torch.inference_mode():
            self._moshi.reset(slot, options, seed)

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Advance the masked slots by ``audio``, ``int16 [B, 1920]``; tokens are ``int64 [B, 17]``."""
        heard = torch.from_numpy(audio).to(torch.float32).div_(_FULL_SCALE)[:, None]  # [B, 1, 1920]
        step = self._moshi.step(heard, torch.from_numpy(mask))
        said = (step.audio[:, 0] * _FULL_SCALE).round_().clamp_(-_FULL_SCALE, _FULL_SCALE - 1)  # [B, 1920]
        tokens = step.tokens.cpu().numpy()  # [B, 17]
        ready = step.ready.cpu().numpy()  # [B]
        text = [
            self._tokenizer.piece(int(token)) if has_spoken else ""
            for token, has_spoken in zip(tokens[:, 0], ready, strict=True)
        ]
        return StepOutput(said.to(torch.int16).cpu().numpy(), text, tokens)
