"""The shape of an agent's actions: when one runs, and what it does, step by step."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from config.addresses import check_http_url
from config.section import Name, Section

HttpUrl = Annotated[str, AfterValidator(check_http_url)]


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error}); got {pattern!r}") from None
    return pattern


Pattern = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_pattern)]


class Trigger(Section):
    """What sets an action off: exactly one of these, or none, for an action that only the API starts."""

    agent_says: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = None
    """Words; case, punctuation and the pieces in which the text comes do not matter."""
    agent_says_regex: Pattern | None = None
    """A regular expression (Python's) over the running text of the agent, case ignored."""
    dtmf: Pattern | None = None
    """A regular expression over the keys pressed so far, matched at their end, e.g. ``0`` or ``[0-9]{4}#``."""

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; write an action for each")
        return self


class TransferStep(Section):
    """Ask the line's peer to call somebody else instead (REFER, RFC 3515)."""

    to: str = Field(min_length=1, max_length=255)
    """A SIP URI; ``{NAME}`` stands for a variable."""
    within_s: float = Field(30.0, ge=1, le=300)
    """How long the other side may take to answer; after that the conversation goes on."""
    failed_say: str | None = Field(None, max_length=4_000)
    """What the agent says when it did not succeed."""


class WebhookStep(Section):
    """Ask a web server; its JSON answer may hold ``say``, ``set``, ``transfer``, ``switch_agent`` and ``hang_up``."""

    url: HttpUrl
    """Where a POST with the call and its variables is sent; ``{NAME}`` stands for a variable."""
    secret: SecretStr | None = None
    """Signs the request (docs/events.md), written as ``${NAME}``; default: unsigned."""
    timeout_s: float = Field(5.0, gt=0, le=60)
    """How long the answer may take."""
    failed_say: str | None = Field(None, max_length=4_000)
    """What the agent says when no answer came or none could be used."""


class HangUpStep(Section):
    """End the call."""

    after_s: float = Field(0.0, ge=0, le=60)
    """How long to wait first; what is being said is always finished (for at most 15 s)."""


class Step(Section):
    """One thing that an action does: exactly one of these."""

    say: str | None = Field(None, max_length=4_000)
    """A text that the agent says, word for word; ``{NAME}`` stands for a variable."""
    set: dict[Name, str] | None = None
    """Values for variables; ``{dtmf}`` is what was pressed, ``{said}`` what was matched."""
    send_dtmf: str | None = Field(None, pattern=r"^[0-9A-D*#{}A-Za-z_]{1,64}$")
    """Keys that the agent presses."""
    transfer: TransferStep | None = None
    """Hand the caller over."""
    webhook: WebhookStep | None = None
    """Ask a web server."""
    switch_agent: str | None = None
    """The name of an agent that goes on with the call."""
    hang_up: HangUpStep | None = None
    """End the call."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "is empty"
            raise ValueError(f"{found}; a step is one of {', '.join(type(self).model_fields)}")
        return self


class Action(Section):
    """What an agent does besides talking. It runs beside the audio; each run has one outcome in the call's record."""

    name: Name
    """Its name in records, events and the API."""
    when: Trigger = Trigger()
    """What sets it off; nothing: only the API does."""
    do: list[Step] = Field(min_length=1, max_length=20)
    """What it does, in order; a step that fails ends it."""
    repeat: bool = False
    """Whether it may run more than once in a call."""
    timeout_s: float = Field(60.0, gt=0, le=600)
    """How long it may take in all."""
