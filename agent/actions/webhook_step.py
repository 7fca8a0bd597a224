"""The step of an action that asks a web server what to do (docs/events.md). On the gateway's event loop."""

import json
import re
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote, urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from agent.actions.template import expand
from agent.events import signing
from agent.events.post import NoAnswer, post
from config.actions_schema import WebhookStep
from config.addresses import check_transfer_target
from config.section import Name

MAX_ANSWER: Final = 65_536
"""Bytes of the longest answer that is read."""

_Value = Annotated[str, Field(max_length=4_000)]
_Target = Annotated[str, Field(max_length=255), AfterValidator(check_transfer_target)]


class WebhookAnswer(BaseModel):
    """What a web server wants done; nothing of it: the action goes on. Done in the order of the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    set: Annotated[dict[Name, _Value], Field(max_length=100)] = {}
    """Values for variables."""
    say: _Value | None = None
    """A text for the agent to say; braces in it are braces."""
    switch_agent: Name | None = None
    """An agent that goes on with the call."""
    transfer: _Target | None = None
    """A SIP URI the caller is handed over to."""
    hang_up: bool = False
    """Whether the call is to end, when everything has been said."""


class WebhookFailed(Exception):
    """No usable answer came; the message says why, in words for an operator and without content."""


async def ask(
    http: httpx.AsyncClient, step: WebhookStep, variables: Mapping[str, str], body: Mapping[str, Any]
) -> WebhookAnswer:
    """POST ``body``, once, and read the answer. Raises ``WebhookFailed`` and ``UnknownVariable``.

    Variables in the address are percent-encoded, so that none can add to its path or reach another server.
    """
    url = expand(step.url, variables, lambda value: quote(value, safe=""))
    if re.search(r"/(\.|%2e){1,2}(/|$)", urlsplit(url).path + "/", re.IGNORECASE):
        raise WebhookFailed("a variable in its address is . or ..")
    content = json.dumps(body, ensure_ascii=False, default=str).encode("utf-8", "replace")
    secret = step.secret.get_secret_value() if step.secret is not None else None
    headers = signing.headers(secret, f"act_{uuid.uuid4().hex}", int(time.time()), content)
    try:
        answer = await post(http, url, content, headers, within_s=step.timeout_s, wanted=MAX_ANSWER)
    except NoAnswer as error:
        raise WebhookFailed(str(error)) from None
    if not 200 <= answer.status < 300:
        raise WebhookFailed(f"the answer has status {answer.status}")
    return _parse(answer.body)


def _parse(body: bytes) -> WebhookAnswer:
    if not body.strip():
        return WebhookAnswer()
    try:
        return WebhookAnswer.model_validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise WebhookFailed("the answer is not JSON") from None
        where = first["loc"][0] if first["loc"] else ""
        if where not in WebhookAnswer.model_fields:  # its name would be content
            raise WebhookFailed(f"the answer is no object of {', '.join(WebhookAnswer.model_fields)}") from None
        raise WebhookFailed(f"in the answer, {where} cannot be used ({first['type']})") from None
