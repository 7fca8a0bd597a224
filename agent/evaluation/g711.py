"""G.711 as bytes: a sample of 16 bits to a code and back, by tables of the laws' values (ITU-T G.711). Pure."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from model_runtime.training.telephone import VALUES, Law
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


def _decoded(law: Law) -> NDArray[np.int16]:
    """The value of each code: codes go outwards from 0, on both sides."""
    code = ~np.arange(256) & 0xFF if law == "mu" else np.arange(256) ^ 0x55
    positive = (code & 0x80 == 0) if law == "mu" else (code & 0x80 != 0)
    rank = np.where(positive, 128 + (code & 0x7F), 127 - (code & 0x7F))
    return (VALUES[law][rank] * 32_768).astype(np.int16)


def _nearest(table: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The borders between neighbouring values, and their codes, rising."""
    order = np.argsort(table, kind="stable")
    values = table[order].astype(np.float64)
    return (values[1:] + values[:-1]) / 2, order.astype(np.uint8)


_DECODED: Final = {"PCMU": _decoded("mu"), "PCMA": _decoded("a")}
_NEAREST: Final = {codec: _nearest(table) for codec, table in _DECODED.items()}
