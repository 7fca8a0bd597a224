"""What the engine steps: the seam between slots and a model. Numpy at the border, so that no torch is needed here."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
"""Audio at 24 kHz, mono: a frame is ``int16 [1920]``, a batch ``int16 [B, 1920]`` (config/audio.py)."""
Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How a conversation's tokens are drawn; a temperature of 0 takes the likeliest."""

    audio_temperature: float = 0.8
    audio_top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step gave, in arrays that the model does not touch again; rows that took no part hold anything."""

    audio: Samples
    """``int16 [B, 1920]``: what each slot says."""
    text: list[str]
    """What each slot's text token adds to the transcript; mostly nothing."""
    tokens: Tokens
    """``int64 [B, K]``: the step's tokens, text first; K is 17 for Moshi and 0 for a model without tokens."""


class Model(Protocol):
    """A model that advances some of its slots by one frame. Only the engine thread calls it."""

    @property
    def slots(self) -> int:
        """How many conversations fit; B below."""

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Make the slot as if it had never been used, and give it its sampling and seed."""

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Advance the slots where ``mask``, ``bool [B]``, holds by one frame of ``audio``, ``int16 [B, 1920]``."""
