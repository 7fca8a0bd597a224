"""What the engine steps: the seam between slots and a model. Numpy at the border, so that no torch is needed here."""

from collections.abc import Iterator
from dataclasses import dataclass, field
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
class AgentPrompt:
    """Who the model is to be in a conversation; empty fields leave it to the model."""

    instructions: str = ""
    voice: str = ""
    """The name of a voice that the worker has."""
    greeting: str = ""
    """What it says first, word for word."""


@dataclass(frozen=True, slots=True)
class Past:
    """A conversation up to now, as another worker left it."""

    steps: int
    """Steps done in all; the prompt's do not count."""
    tokens: NDArray[np.int32]
    """``int32 [T, K]``: the tokens of the last T of them."""
    heard: Samples
    """``int16 [W, 1920]``: the caller's last frames, of those that a step heard; may be none."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a conversation begins with, beyond silence."""

    prompt: AgentPrompt = field(default_factory=AgentPrompt)
    past: Past | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step gave, in arrays that the model does not touch again; rows that took no part hold anything."""

    audio: Samples
    """``int16 [B, 1920]``: what each slot says."""
    text: list[str]
    """What each slot's text token adds to the transcript; mostly nothing."""
    tokens: Tokens
    """``int64 [B, K]``: the step's tokens, K is 17 for Moshi and 0 for a model without tokens.

    Text and own codes are those that the step drew, the user's those that it heard; so all steps' tokens together tell
    what the model remembers. (Text and audio of the *frame* that it gave back were drawn partly in the step before.)
    """


class Model(Protocol):
    """A model that advances some of its slots by one frame. Only the engine thread calls it."""

    @property
    def slots(self) -> int:
        """How many conversations fit; B below."""

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Make the slot as if it had never been used, and give it its sampling and seed."""

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """Reset the slot and begin a conversation as said, a piece of work per item, each shorter than a frame.

        Steps of other slots lie between the pieces; the slot itself is not stepped before the last one. Raises
        ``ProtocolError`` where the past is none of this model's, ``CheckpointError`` where the prompt cannot be used.
        """

    def force(self, slot: int, text: str) -> None:
        """Let the slot say ``text`` as soon as it is between two words."""

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Advance the slots where ``mask``, ``bool [B]``, holds by one frame of ``audio``, ``int16 [B, 1920]``."""
