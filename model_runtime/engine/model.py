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
    pad_bias: float = 0.0
    """Added to the logit of PAD, the text token of silence, -100 to 100: the greater, the less the model says."""
    repetition_penalty: float = 1.0
    """1 to 10: how much less likely the text tokens of the last 64 steps are; 1 leaves them as likely as they are."""


@dataclass(frozen=True, slots=True)
class AgentPrompt:
    """Who the model is to be in a conversation; empty fields leave it to the model."""

    instructions: str = ""
    voice: str = ""
    """The name of a voice that the worker has."""
    greeting: str = ""
    """What it says first, word for word."""
    greeting_audio: bytes = b""
    """A recording that it says first, as its own speech: int16 little endian, 24 kHz, mono, at most 30 s.

    ``greeting`` then are its words, spread over its length.
    """
    wait: bool = False
    """Whether it keeps silent until the first text that is forced, and only then greets; an empty one lets it begin.

    A resumed conversation that waits has not greeted, one that does not goes on where it was.
    """


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
    scripted: NDArray[np.bool_]
    """``bool [B]``: whether each slot had a greeting or a forced text to say (``Frame.scripted``)."""
    caller_text: list[str]
    """What each slot's caller said some time ago (``Model.caller_text_delay_s``); mostly nothing."""


class Model(Protocol):
    """A model that advances some of its slots by one frame. Only the engine thread calls it."""

    @property
    def slots(self) -> int:
        """How many conversations fit; B below."""

    @property
    def caller_text_delay_s(self) -> float:
        """By so much the caller's text lags his audio; 0 where the model does not write it down."""

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Make the slot as if it had never been used, and give it its sampling and seed."""

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """Reset the slot and begin a conversation as said, a piece of work per item, each shorter than a frame.

        Steps of other slots lie between the pieces; the slot itself is not stepped before the last one. Raises
        ``ProtocolError`` where the past is none of this model's, ``CheckpointError`` where the prompt cannot be used.
        """

    def force(self, slot: int, text: str) -> None:
        """Let the slot say ``text`` as soon as it is between two words, and no longer wait; nothing if it is empty."""

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Advance the slots where ``mask``, ``bool [B]``, holds by one frame of ``audio``, ``int16 [B, 1920]``."""
