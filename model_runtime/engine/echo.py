"""The line test: a model that says what it hears."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model_runtime.engine.model import Beginning, Samples, SamplingOptions, StepOutput


class EchoModel:
    """Gives each frame back as it came; the caller hears himself one frame later."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.caller_text_delay_s = 0.0

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """An echo remembers nothing."""

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """An echo has no past and plays no part."""
        return iter(())

    def force(self, slot: int, text: str) -> None:
        """An echo says nothing of its own."""

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Return ``audio``, without text and without tokens."""
        nothing = [""] * self.slots
        return StepOutput(audio, nothing, np.empty((self.slots, 0), np.int64), np.zeros(self.slots, np.bool_), nothing)
