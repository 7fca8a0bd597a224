"""The audio encodings Denwa speaks on SIP lines (RFC 3551)."""

from typing import Final

CODEC_RATES: Final = {"PCMU": 8_000, "PCMA": 8_000, "G722": 16_000}
"""Samples per second of the audio each carries, in Hz (of G722, not the 8,000 that SDP says for it)."""
