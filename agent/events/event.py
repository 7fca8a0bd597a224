"""One event and its JSON body, and what of its data is blackened. Pure."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from config.redaction import Redactor
from config.schema import EventKind

_NOT_TEXT: Final = frozenset({
    "action", "agent", "called", "caller", "caller_uri", "codec", "direction", "id", "kind", "language", "model",
    "sip_call_id", "source", "speaker", "target", "trunk",
})  # fmt: skip
"""Keys at the top of ``data`` whose values name something: addresses and ids, without which nobody can match them."""
_PATHS: Final = frozenset({"recording", "text", "transcript", "vtt", "words"})
"""Keys of ``call.ended`` that are paths of files."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a call, or in the gateway (``call`` is None).

    ``id`` is the same on every try; ``number`` counts the call's events from 0; ``at`` is in UTC.
    """

    id: str
    kind: EventKind
    call: str | None
    at: datetime
    number: int
    data: Mapping[str, Any]

    def body(self) -> bytes:
        """The event as receivers get it: one line of JSON in UTF-8, with Standard Webhooks' ``type`` and ``timestamp``.

        Raises ``ValueError`` where the data cannot be JSON.
        """
        line = {
            "id": self.id,
            "type": self.kind,
            "timestamp": self.at.isoformat(timespec="milliseconds"),
            "call": self.call,
            "number": self.number,
            "data": self.data,
        }
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=False)
        return text.encode("utf-8", "replace")


def blacken(kind: EventKind, data: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A copy of ``data`` with every text in it redacted, however deep.

    Left as they are: at the top, values of keys that name something (``caller``, ``target``, what ends in ``_at`` or
    ``_id``, the paths of ``call.ended``). Numbers that JSON does not have become None.
    """
    kept = _NOT_TEXT | _PATHS if kind == "call.ended" else _NOT_TEXT
    return {
        key: value
        if isinstance(value, str) and (key in kept or key.endswith(("_at", "_id")))
        else _text(value, redactor)
        for key, value in data.items()
    }


def _text(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, str):
        return redactor.redact(value) if redactor else value
    if isinstance(value, Mapping):
        return {str(key): _text(each, redactor) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_text(each, redactor) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _plain(value: Any) -> Any:
    """What ``json`` does not know: numpy's numbers as numbers, times in ISO 8601, anything else as text."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else str(value)
