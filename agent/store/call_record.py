"""What is kept of one call: numbers, who answered, times, how it ended, figures, actions, and where its files lie.

Pure values. What outsiders send (names, variables) is made fit to be stored here, so that no record is ever refused.
"""

import math
import os
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

MAX_SHORT: Final = 255
"""Characters of what is searched by; an index has no room for more."""
MAX_TEXT: Final = 2_000
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")  # PostgreSQL refuses them


def _storable(value: Any) -> Any:
    """The value as JSON that both databases take: no NUL, no half characters, no NaN, no other objects."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, dict):
        return {_storable(str(key)): _storable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return _storable(str(value))


def _figures(value: Any) -> Any:
    """Figures that are numbers; a figure that is none (NaN) is left out."""
    clean = _storable(value)
    return {name: each for name, each in clean.items() if each is not None} if isinstance(clean, dict) else clean


def short(text: Any) -> Any:
    """A number, name or address as it is stored and searched for: at most 255 characters."""
    return _storable(text)[:MAX_SHORT] if isinstance(text, str) else text


def _text(text: Any) -> Any:
    return _storable(text)[:MAX_TEXT] if isinstance(text, str) else text


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _absolute(path: Any) -> Any:
    """A path that means the same wherever ``denwa calls`` is started."""
    return path if path is None else os.path.abspath(path)


Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""A call's id: it stands in file names, so it has no dots and no slashes."""
Short = Annotated[str, BeforeValidator(short)]
Text = Annotated[str, BeforeValidator(_text)]
Utc = Annotated[AwareDatetime, AfterValidator(_utc)]
FilePath = Annotated[str | None, BeforeValidator(_absolute)]
Figures = Annotated[dict[str, int | float], BeforeValidator(_figures)]
Result = Literal["completed", "cancelled", "rejected", "failed"]

AUDIO: Final = ("recording",)
TEXTS: Final = ("words", "transcript", "vtt", "text")
FILES: Final = (*AUDIO, *TEXTS)
"""The fields that hold paths."""


class CallRecord(BaseModel):
    """One call. ``result`` is None while it runs. Times are UTC; a time without a zone is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Id
    direction: Literal["inbound", "outbound"] = "inbound"
    caller: Short = ""
    """The user part of From: a number or a name."""
    caller_uri: Text = ""
    called: Short = ""
    trunk: Short | None = None
    source: Short = ""
    """The address that the call came from or went to."""
    sip_call_id: Text = ""
    agent: Short
    model: Short = ""
    language: Short = ""
    generation: int = Field(0, ge=0, lt=2**63)
    """Of the configuration that answered."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    started_at: Utc
    answered_at: Utc | None = None
    ended_at: Utc | None = None
    result: Result | None = None
    reason: Text = ""
    sip_status: int | None = Field(None, ge=100, le=699)
    codec: Short | None = None
    rtp: Figures = {}
    conversation: Figures = {}
    actions: Annotated[list[dict[str, Any]], BeforeValidator(_storable)] = []
    """The outcomes of actions, in the order in which they began."""
    variables: Annotated[dict[str, str], BeforeValidator(_storable)] = {}
    recording: FilePath = None
    words: FilePath = None
    """The words' times beside the recording, as moshi-finetune reads them."""
    transcript: FilePath = None
    """The ``.jsonl``."""
    vtt: FilePath = None
    text: FilePath = None
    delete_audio_at: Utc | None = None
    delete_text_at: Utc | None = None
    delete_record_at: Utc | None = None

    def changed(self, **values: Any) -> Self:
        """The same record with other values, checked like new ones. Raises ``pydantic.ValidationError``."""
        return type(self).model_validate({name: getattr(self, name) for name in type(self).model_fields} | values)

    @property
    def files(self) -> dict[str, str]:
        """The paths that are known, by field."""
        return {name: path for name in FILES if (path := getattr(self, name)) is not None}

    @property
    def duration_s(self) -> float | None:
        """From the answer to the end, in seconds; None for a call that was not answered or has not ended."""
        if self.answered_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.answered_at).total_seconds())

    def is_of(self, number: str) -> bool:
        """Whether the person at the other end has this number."""
        number = short(number)
        return self.caller == number or (self.direction == "outbound" and self.called == number)
