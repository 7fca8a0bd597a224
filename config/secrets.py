"""Secrets that an operator puts in: checked without ever being shown. Pure."""

import re
from typing import Final

from pydantic import BaseModel, SecretStr

_B64TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
"""RFC 6750 section 2.1; shorter ones can be guessed."""


def check_token(token: SecretStr) -> SecretStr:
    """A bearer token; raises ``ValueError`` that says what would be right and not what it is."""
    if not _B64TOKEN.fullmatch(token.get_secret_value()):
        raise ValueError(
            "must be 16 or more letters, digits or characters of -._~+/, e.g. what `openssl rand -hex 32` prints"
        )
    return token


def revealed(section: BaseModel) -> dict[str, str]:
    """The secrets of a section, as they are: for handing it to a process of ours, never for showing."""
    values = ((name, getattr(section, name)) for name in type(section).model_fields)
    return {name: value.get_secret_value() for name, value in values if isinstance(value, SecretStr)}
