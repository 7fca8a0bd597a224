"""PCMU and PCMA (ITU-T G.711) as tables, so that what is in a captured packet can be measured."""

import numpy as np
from numpy.typing import NDArray


def _mulaw(code: NDArray[np.int64]) -> NDArray[np.int64]:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude)


def _alaw(code: NDArray[np.int64]) -> NDArray[np.int64]:
    code = code ^ 0x55
    exponent, mantissa = (code >> 4) & 7, (code & 0x0F) << 4
    magnitude = np.where(exponent > 0, (mantissa + 0x108) << np.maximum(exponent - 1, 0), mantissa + 8)
    return np.where(code & 0x80, magnitude, -magnitude)


DECODED = {0: _mulaw(np.arange(256)).astype(np.int16), 8: _alaw(np.arange(256)).astype(np.int16)}
"""Sample of each code, by static RTP payload type (RFC 3551 section 6)."""

SILENCE = {0: b"\xff", 8: b"\xd5"}
"""The code of a silent sample."""


def decode(payload: bytes, payload_type: int) -> NDArray[np.int16]:
    """Samples of a payload, ``int16 [len(payload)]``."""
    return DECODED[payload_type][np.frombuffer(payload, np.uint8)]


def encode(samples: NDArray[np.int16], payload_type: int) -> bytes:
    """The code nearest to each sample."""
    table = DECODED[payload_type].astype(np.int64)
    order = np.argsort(table, kind="stable")
    ordered = table[order]
    borders = (ordered[1:] + ordered[:-1]) / 2
    return bytes(order[np.searchsorted(borders, samples)].astype(np.uint8))
