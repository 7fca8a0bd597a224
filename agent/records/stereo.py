"""Blocks of two channels as the samples of a file, interleaved, at its rate. Used by the recorder's thread."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from telephony.call import Frame
from telephony.resample import Resampler

_LAG: Final = 16
"""Samples by which a primed resampler's output from 24 to 8 or 16 kHz is late (telephony/resample.py)."""
_BATCH: Final = 16  # blocks that are made into samples at a time

Samples = NDArray[np.int16]


class Block(NamedTuple):
    """80 ms of a call after ``missed`` blocks of silence; a channel that is None is silent."""

    left: Frame | None
    right: Frame | None
    missed: int = 0


class Stereo:
    """Makes samples ``int16 [n, 2]`` of blocks; the file's sample i is the call's sample i * 24000 / rate, exactly."""

    def __init__(self, sample_rate: int) -> None:
        self._resamplers = [Resampler(SAMPLE_RATE, sample_rate) for _ in range(2)]
        self._late = 0 if sample_rate == SAMPLE_RATE else _LAG
        self._to_drop = self._late
        self._per_lag = self._late * SAMPLE_RATE // sample_rate

    def push(self, blocks: Iterable[Block]) -> Iterator[Samples]:
        """Samples ``int16 [n, 2]`` of so many blocks, in pieces of 1.3 s at most."""
        batch: list[Block] = []
        for block in blocks:
            for _ in range(block.missed):
                batch.append(Block(None, None))
                if len(batch) == _BATCH:
                    yield self._resample(_interleave(batch))
                    batch = []
            batch.append(block)
            if len(batch) == _BATCH:
                yield self._resample(_interleave(batch))
                batch = []
        if batch:
            yield self._resample(_interleave(batch))

    def end(self) -> Samples:
        """The last samples, which the resampler has held back."""
        return self._resample(np.zeros((self._per_lag, 2), np.int16))

    def _resample(self, samples: Samples) -> Samples:
        if not self._late:
            return samples
        channels = [each.push(samples[:, i].copy()) for i, each in enumerate(self._resamplers)]
        drop = min(self._to_drop, channels[0].size)
        self._to_drop -= drop
        return np.stack(channels, axis=1)[drop:]


def _interleave(blocks: list[Block]) -> Samples:
    samples = np.zeros((len(blocks), FRAME_SAMPLES, 2), np.int16)
    for i, block in enumerate(blocks):
        if block.left is not None:
            samples[i, :, 0] = block.left
        if block.right is not None:
            samples[i, :, 1] = block.right
    return samples.reshape(-1, 2)
