"""Server-sent events: what happens, told to whoever reads along (WHATWG HTML, section 9.2). On the event loop.

Nothing is kept for readers but the last 1,000 events in memory, for those who come back with ``Last-Event-ID``.
"""

import asyncio
import json
import weakref
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from agent.events.event import Event
from config.schema import EventKind

RING: Final = 1_000
"""Events that are remembered."""
_QUEUE: Final = 256
"""Events that may wait for a reader; one who is further behind is let go."""
MAX_READERS: Final = 64
"""Readers at a time."""
_KEEP_ALIVE_S: Final = 15.0


class TooManyReaders(Exception):
    """Every place is taken; the reader may come back later (503)."""


@dataclass(frozen=True, slots=True)
class _Told:
    id: str
    call: str | None
    kind: str
    text: str


class Subscription:
    """One reader: an async iterator of text for a ``text/event-stream``, comments included.

    A reader too slow gets an event ``lagged`` (``{"missed": N}``, N None where it is not known) and the end of the
    stream; when it comes back with ``Last-Event-ID`` it gets what it missed. ``close`` is idempotent.
    """

    def __init__(self, call: str | None, kinds: Collection[EventKind] | None, keep_alive_s: float) -> None:
        self._call = call
        self._kinds = frozenset(kinds) if kinds is not None else None
        self._keep_alive_s = keep_alive_s
        self._queue: deque[str] = deque([": denwa\n\n"])
        self._filled = asyncio.Event()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._filled.clear()
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    await self._filled.wait()
            except TimeoutError:
                return ": keep-alive\n\n"
        return self._queue.popleft()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come than what waits."""
        return self._closed

    def close(self) -> None:
        """End the stream after what already waits."""
        self._closed = True
        self._filled.set()

    def tell(self, told: _Told) -> None:
        """Queue an event if the reader wants it."""
        if self._closed or not self.wants(told):
            return
        if len(self._queue) >= _QUEUE:
            missed = len(self._queue) + 1
            self._queue.clear()
            self._queue.append(_lagged(missed))
            self.close()
            return
        self._queue.append(told.text)
        self._filled.set()

    def resume(self, told: Collection[_Told], *, gap: bool) -> None:
        """Begin with events of the past; ``gap``: some before them are forgotten."""
        if gap:
            self._queue.append(_lagged(None))
        self._queue.extend(each.text for each in told if self.wants(each))

    def wants(self, told: _Told) -> bool:
        """Whether the reader asked for such events."""
        return (self._call is None or told.call == self._call) and (self._kinds is None or told.kind in self._kinds)


class Stream:
    """Everybody who reads along, and the last events."""

    def __init__(self, keep_alive_s: float = _KEEP_ALIVE_S) -> None:
        self._keep_alive_s = keep_alive_s
        self._ring: deque[_Told] = deque(maxlen=RING)
        self._readers: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._closed = False

    @property
    def readers(self) -> int:
        """How many read along."""
        return sum(not reader.closed for reader in self._readers)

    def subscribe(
        self, call: str | None = None, kinds: Collection[EventKind] | None = None, last_id: str | None = None
    ) -> Subscription:
        """Read along from now, or from behind the event ``last_id``; raises ``TooManyReaders``.

        Where that event is forgotten, or nobody knows it, the reader gets ``lagged`` and all that is remembered.
        """
        if self._closed or self.readers >= MAX_READERS:
            raise TooManyReaders(f"{MAX_READERS} read along already, or the gateway ends")
        reader = Subscription(call, kinds, self._keep_alive_s)
        if last_id is not None:
            ids = [told.id for told in self._ring]
            known = last_id in ids
            past = list(self._ring)[ids.index(last_id) + 1 :] if known else list(self._ring)
            reader.resume(past, gap=not known)
        self._readers.add(reader)
        return reader

    def publish(self, event: Event, body: bytes) -> None:
        """Tell everybody who wants to know; never blocks."""
        text = f"id: {event.id}\nevent: {event.kind}\ndata: {body.decode()}\n\n"
        told = _Told(event.id, event.call, event.kind, text)
        self._ring.append(told)
        for reader in list(self._readers):
            reader.tell(told)

    def purge(self, calls: Collection[str]) -> None:
        """Forget the events of these calls."""
        self._ring = deque((told for told in self._ring if told.call not in calls), maxlen=RING)

    def close(self) -> None:
        """End every reader's stream; idempotent."""
        self._closed = True
        for reader in list(self._readers):
            reader.close()


def _lagged(missed: int | None) -> str:
    """A notice without an id, so that ``Last-Event-ID`` stays at what the reader really had."""
    return f"event: lagged\ndata: {json.dumps({'missed': missed})}\n\n"
