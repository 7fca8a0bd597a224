"""The one object that calls tell what happens. On the gateway's event loop."""

import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from agent.events.backlog import Backoff
from agent.events.event import Event, blacken
from agent.events.stream import Stream
from agent.events.webhooks import Webhooks
from config.redaction import Redactor
from config.schema import EventKind, EventSettings

log = structlog.get_logger(__name__)

_A_CARD: Final = "4111111111111111"


class Events:
    """Numbers, blackens and hands out events: to webhooks, and to whoever reads along.

    ``folder`` is where events wait for their receivers, ``storage.spool/events``. ``async with`` starts sending;
    leaving it waits 2 s at most for the last ones.
    """

    def __init__(
        self, folder: Path, settings: EventSettings, redactor: Redactor, backoff: Backoff | None = None
    ) -> None:
        self.webhooks = Webhooks(folder, settings.webhooks, backoff)
        self.stream = Stream()
        self.lost = 0
        """Events that could not be made, for a fault of ours."""
        self._numbers: dict[str | None, int] = {}
        self._redactor = redactor
        self._hides_keys = _hides_keys(redactor)

    async def __aenter__(self) -> Self:
        await self.webhooks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()
        await self.webhooks.__aexit__(kind, error, trace)

    def emit(self, kind: EventKind, call_id: str | None, data: Mapping[str, Any]) -> None:
        """Tell of something, in a call or (``call_id`` None) in the gateway. Never blocks, never raises."""
        try:
            number = self._numbers.get(call_id, 0)
            self._numbers[call_id] = number + 1
            event = Event(
                id=f"evt_{uuid.uuid4().hex}",
                kind=kind,
                call=call_id,
                at=datetime.now(UTC),
                number=number,
                data=self._blackened(kind, data),
            )
            body = event.body()
            self.webhooks.send(event, body)
            self.stream.publish(event, body)
        except Exception:  # a call must not end for what is told of it
            self.lost += 1
            log.exception("event.lost", kind=kind, call=call_id)

    def forget(self, call_id: str) -> None:
        """Stop counting the events of a call, after its last one."""
        self._numbers.pop(call_id, None)

    async def reconfigure(self, settings: EventSettings, redactor: Redactor) -> None:
        """Go on with another configuration; nothing that waits is lost."""
        self._redactor = redactor
        self._hides_keys = _hides_keys(redactor)
        await self.webhooks.reconfigure(settings.webhooks)

    async def purge(self, calls: Collection[str]) -> None:
        """Give up and blacken what is kept of these calls here."""
        self.stream.purge(calls)
        await self.webhooks.purge(calls)

    def _blackened(self, kind: EventKind, data: Mapping[str, Any]) -> dict[str, Any]:
        told = blacken(kind, data, self._redactor)
        if kind == "dtmf" and self._hides_keys:
            told |= {"key": "*", "redacted": True}
        return told


def _hides_keys(redactor: Redactor) -> bool:
    """Whether card numbers are blackened: then keys are too, for they come one by one."""
    return redactor.redact(_A_CARD) != _A_CARD
