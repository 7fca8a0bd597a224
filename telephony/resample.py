"""Streaming resampling between a line's rate and the model's 24 kHz.

FFmpeg's resampler withholds its filter's delay (2 ms at 8 kHz) until more input comes, so a frame would
wait for the next packet. Primed with a few zeros once, n samples in give exactly n * out / in samples out,
whatever the blocks.
"""

from typing import Final

import av
import numpy as np

from config.audio import SAMPLE_RATE
from telephony.call import Frame

_PRIMING: Final = {
    (8_000, SAMPLE_RATE): 16,
    (SAMPLE_RATE, 8_000): 48,
    (16_000, SAMPLE_RATE): 16,
    (SAMPLE_RATE, 16_000): 24,
    (48_000, SAMPLE_RATE): 33,
    (SAMPLE_RATE, 48_000): 16,
}
"""Samples of silence that fill the filter, measured for each pair of rates (in, out), in Hz."""


class Resampler:
    """A mono 16-bit stream from one rate to another, block by block; equal rates pass through untouched.

    Raises ``ValueError`` for a pair of rates that was never measured.
    """

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self._rate_in = rate_in
        self._resampler: av.AudioResampler | None = None
        if rate_in == rate_out:
            return
        if (rate_in, rate_out) not in _PRIMING:
            raise ValueError(f"no priming known for {rate_in} Hz to {rate_out} Hz")
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_out)
        self.push(np.zeros(_PRIMING[rate_in, rate_out], np.int16))

    def push(self, block: Frame) -> Frame:
        """Resample ``int16 [n]``; return ``int16 [n * out / in]``, exact when that is a whole number."""
        if self._resampler is None:
            return block
        frame = av.AudioFrame.from_ndarray(block[None, :], format="s16", layout="mono")
        frame.sample_rate = self._rate_in
        parts = [part.to_ndarray()[0] for part in self._resampler.resample(frame)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int16), *parts])
