"""From the line's blocks to whole frames."""

import numpy as np

from config.audio import FRAME_SAMPLES
from telephony.call import Frame


class Framer:
    """Cut a stream of blocks of any length into frames of 1,920 samples; holds less than one frame back."""

    def __init__(self) -> None:
        self._held: Frame = np.empty(0, np.int16)

    def push(self, block: Frame) -> list[Frame]:
        """Return the frames that ``block``, ``int16 [n]`` at 24 kHz, completes."""
        if not self._held.size and block.size == FRAME_SAMPLES:  # the short way: the line's block is the frame
            return [block]
        held = np.concatenate([self._held, block])
        whole = held.size - held.size % FRAME_SAMPLES
        self._held = held[whole:]
        return list(held[:whole].reshape(-1, FRAME_SAMPLES))
