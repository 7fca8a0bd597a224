"""Signatures of webhooks, as the Standard Webhooks specification has them. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: HMAC-SHA256 (RFC 2104)
over ``ID.TIMESTAMP.BODY``, in base64 behind ``v1,``.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

_ENCODED: Final = "whsec_"


def key(secret: str) -> bytes:
    """The key of a secret: after ``whsec_`` the base64 decoded; any other secret is its own UTF-8 bytes."""
    if secret.startswith(_ENCODED):
        try:
            return base64.b64decode(secret.removeprefix(_ENCODED), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The ``webhook-signature`` of a body; ``timestamp`` in Unix seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key(secret), signed, hashlib.sha256)).decode()


def headers(secret: str | None, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Every header of a webhook that carries ``body``; without a secret it has no signature."""
    base = {
        "content-type": "application/json",
        "user-agent": "denwa",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
    }
    return base | ({"webhook-signature": sign(secret, message_id, timestamp, body)} if secret is not None else {})
