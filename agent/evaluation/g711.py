"""G.711 as bytes: a sample of 16 bits to a code and back, by tables (ITU-T G.711). Pure."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from telephony.call import Frame

Codec = Literal["PCMU", "PCMA"]
PAYLOAD_TYPES: Final[dict[Codec, int]] = {"PCMU": 0, "PCMA": 8}
"""RFC 3551, section 6."""


def decode(payload: bytes, codec: Codec) -> Frame:
    """The samples ``int16 [n]`` of ``n`` codes."""
    return _DECODED[codec][np.frombuffer(payload, np.uint8)]


def encode(samples: Frame, codec: Codec) -> bytes:
    """The nearest code of each of ``samples [n]``."""
    borders, codes = _NEAREST[codec]
    return codes[np.searchsorted(borders, samples)].tobytes()


def _mu_law() -> NDArray[np.int16]:
    code = ~np.arange(256) & 0xFF
    magnitude = ((2 * (code & 15) + 33) << (code >> 4 & 7)) - 33  # of 14 bits
    return (np.where(code & 0x80, -magnitude, magnitude) * 4).astype(np.int16)


def _a_law() -> NDArray[np.int16]:
    code = np.arange(256) ^ 0x55
    segment, step = code >> 4 & 7, code & 15
    magnitude = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment - 1, 0))  # of 13 bits
    return (np.where(code & 0x80, magnitude, -magnitude) * 8).astype(np.int16)


def _nearest(table: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The borders between neighbouring values, and their codes, rising."""
    order = np.argsort(table, kind="stable")
    values = table[order].astype(np.float64)
    return (values[1:] + values[:-1]) / 2, order.astype(np.uint8)


_DECODED: Final = {"PCMU": _mu_law(), "PCMA": _a_law()}
_NEAREST: Final = {codec: _nearest(table) for codec, table in _DECODED.items()}
