"""The line test: a model that says what it hears."""

import numpy as np
from numpy.typing import NDArray

from model_runtime.engine.model import Samples, SamplingOptions, StepOutput


class EchoModel:
    """Gives each frame back as it came; the caller hears himself one frame later."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """An echo remembers nothing."""

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Return ``audio``, without text and without tokens."""
        return StepOutput(audio, [""] * self.slots, np.empty((self.slots, 0), np.int64))
