"""Ogg/Opus streams to and from frames of the audio contract, through the package ``sphn``. On the worker's event loop.

The package is Kyutai's own and the one its clients use. It comes with the extra ``kyutai``.
"""

from importlib.util import find_spec
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.engine.model import Samples
from model_runtime.errors import ProtocolError
from model_runtime.worker.ogg import OggPages

_FULL_SCALE: Final = 32_768.0
_MAX_AHEAD_S: Final = 2.0
"""How far audio may be ahead of the clock."""
_MAX_BEHIND_S: Final = 10.0
"""How far it may fall behind and still catch up: a network that stalled hands over what it held back."""
_FASTEST: Final = 1.05
"""Seconds of audio per second in the long run; a client's clock may be a little fast."""


def opus_missing() -> str | None:
    """Why Ogg/Opus cannot be spoken here, or None."""
    if find_spec("sphn") is None:
        return "this worker has no Opus codec for Kyutai's protocol; it comes with: pip install 'denwa[kyutai]'"
    return None


class OpusReader:
    """The client's stream, decoded and cut into frames. ``now`` is any monotonic clock, s."""

    def __init__(self, now: float) -> None:
        import sphn

        self._decoder = sphn.OpusStreamReader(SAMPLE_RATE)
        self._pages = OggPages()
        self._pcm: NDArray[np.float32] = np.empty(0, np.float32)
        self._ahead_s = 0.0
        self._at = now

    def append(self, data: bytes, now: float) -> list[Samples]:
        """The frames ``int16 [1920]`` that are complete with ``data``.

        Raises ``ProtocolError`` where that is no Ogg/Opus, or more audio than time has passed for.
        """
        pages = self._pages.feed(data)
        passed_s = (now - self._at) * _FASTEST
        self._ahead_s = max(-_MAX_BEHIND_S, self._ahead_s - passed_s) + sum(page.audio_s for page in pages)
        self._at = now
        if self._ahead_s > _MAX_AHEAD_S:
            raise ProtocolError("audio: it comes faster than it can have been spoken")
        pcm = np.concatenate([self._pcm, self._decode(b"".join(page.data for page in pages))])
        whole = len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES
        self._pcm = pcm[whole:]
        scaled = np.clip(np.rint(pcm[:whole] * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
        return list(scaled.reshape(-1, FRAME_SAMPLES))

    def _decode(self, pages: bytes) -> NDArray[np.float32]:
        try:
            pcm: NDArray[np.float32] = self._decoder.append_bytes(pages)
        except ValueError as error:
            raise ProtocolError(f"audio: {error}") from None
        return pcm


class OpusWriter:
    """What the client is to hear, as one stream."""

    def __init__(self) -> None:
        import sphn

        self._encoder = sphn.OpusStreamWriter(SAMPLE_RATE)

    def append(self, frame: Samples) -> bytes:
        """The pages that carry ``frame``, ``int16 [1920]``; the first ones begin with the stream's headers."""
        pages: bytes = self._encoder.append_pcm(frame.astype(np.float32) / _FULL_SCALE)
        return pages
