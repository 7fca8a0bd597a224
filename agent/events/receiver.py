"""One receiver of webhooks: what it is to be told waits on disk and is sent in order. On the gateway's event loop.

Files are read and written by a thread that all receivers share; what comes while it works is written together.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx
import structlog

from agent.events import signing
from agent.events.backlog import Backlog, Backoff, Turn, Verdict
from agent.events.journal import Journal, Record
from agent.events.post import Answer, NoAnswer, post
from config.schema import WebhookReceiver

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_UNWRITTEN: Final = 10_000
"""Events that wait in memory for the disk; beyond them the oldest are given up."""
_TRIED_AGAIN: Final = frozenset({401, 403, 404, 407, 408, 409, 421, 423, 425, 429})
"""Of the statuses from 400 to 499 those that speak of the receiver's state, not of the event."""
_LOG_EVERY_S: Final = 10.0
_RESTART_S: Final = 1.0


@dataclass(slots=True)
class Figures:
    """What became of a receiver's events since the process started."""

    delivered: int = 0
    retried: int = 0
    """Tries that failed and are made again."""
    given_up: int = 0


def judge(answer: Answer) -> Verdict:
    """What an answer's status means: 2xx taken; most of 4xx: never; everything else, redirects too: try again."""
    if 200 <= answer.status < 300:
        return Verdict.ACCEPTED
    if 400 <= answer.status < 500 and answer.status not in _TRIED_AGAIN:
        return Verdict.REFUSED
    return Verdict.FAILED


class Receiver:
    """A web server that is told what happens. ``run`` sends until ``close``; then what is left waits on disk."""

    def __init__(
        self,
        name: str,
        settings: WebhookReceiver,
        journal: Journal,
        http: httpx.AsyncClient,
        disk: ThreadPoolExecutor,
        backoff: Backoff,
    ) -> None:
        self.name = name
        self.settings = settings
        """May be replaced at any time: a reload changes the address, not what waits."""
        self.figures = Figures()
        self._journal = journal
        self._http = http
        self._disk = disk
        self._backoff = backoff
        self._backlog = Backlog(backoff)
        self._new: list[Record] = []
        self._storing = 0
        self._done: list[tuple[int, int]] = []
        self._unread = asyncio.Event()
        self._turn = asyncio.Event()
        self._quiet = asyncio.Event()
        self._closed = asyncio.Event()
        self._logged_at = float("-inf")
        self._unlogged = 0

    @property
    def waiting(self) -> int:
        """Events neither accepted nor given up."""
        return len(self._new) + self._storing + self._backlog.waiting

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        return self._backlog.failing

    def put(self, record: Record) -> None:
        """Take an event; never blocks."""
        self._new.append(record)
        if len(self._new) > _UNWRITTEN:
            del self._new[0]
            self._give_up(1, "the disk does not keep up")
        self._quiet.clear()
        self._unread.set()

    async def linger(self) -> None:
        """Wait until nothing waits any more, or the receiver fails."""
        if self.waiting and not self.failing:
            await self._quiet.wait()

    async def purge(self, calls: Iterable[str]) -> None:
        """Give up and blacken what waits of these calls."""
        positions = [position for call in calls for position in self._backlog.forget(call)]
        await self._on_disk(lambda: erase(self._journal, positions))
        self._give_up(len(positions), "purged")

    def close(self) -> None:
        """Stop sending; idempotent. ``run`` returns when what is left has been written."""
        self._closed.set()
        self._unread.set()

    async def run(self) -> None:
        """Send until closed. A fault of ours is logged and begun anew, for it must not cost the gateway."""
        while True:
            try:
                return await self._serve()
            except Exception:
                log.exception("webhook.fault", receiver=self.name)
            if self._closed.is_set():
                return
            await asyncio.sleep(_RESTART_S)

    async def _serve(self) -> None:
        self._backlog = Backlog(self._backoff)
        found = await self._on_disk(self._journal.open)
        for call, position in found:
            self._backlog.put(call, position)
        if found:
            log.info("webhook.resumed", receiver=self.name, waiting=len(found))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(), name=f"webhook journal {self.name}")
                sending = tasks.create_task(self._send(), name=f"webhook {self.name}")
                await self._closed.wait()
                sending.cancel()
        finally:
            await self._flush()
            await self._on_disk(self._journal.close)

    async def _write(self) -> None:
        """Bring to disk what is new and what is done, together with whatever came meanwhile.

        Ends by itself once closed: cancelled on its way to the disk, what it had taken would be lost.
        """
        while not self._closed.is_set():
            await self._unread.wait()
            self._unread.clear()
            await self._flush()
            self._turn.set()

    async def _flush(self) -> None:
        new, self._new = self._new, []
        done, self._done = self._done, []
        self._storing = len(new)
        positions = await self._on_disk(lambda: self._stored(new, done))
        self._storing = 0
        for record, position in zip(new, positions, strict=True):
            self._backlog.put(record.call, position)
        if dropped := self._backlog.drop(self._journal.floor):
            self._give_up(dropped, "the journal is full")

    def _stored(self, new: list[Record], done: list[tuple[int, int]]) -> list[int]:
        """In the thread of the disk: done before new, so that an idle journal stays small."""
        if done:
            self._journal.erase(done)
        return self._journal.append(new) if new else []

    async def _send(self) -> None:
        """Start a try whenever it is some event's turn."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tries:
            while True:
                self._turn.clear()
                while turn := self._backlog.take(loop.time()):
                    tries.create_task(self._try(turn), name=f"webhook {self.name} {turn.call}")
                next_at = self._backlog.next_at()
                try:
                    async with asyncio.timeout_at(next_at):
                        await self._turn.wait()
                except TimeoutError:
                    pass  # somebody's pause is over

    async def _try(self, turn: Turn) -> None:
        """Send one event once, and note what became of it."""
        was_failing = self.failing
        found = await self._on_disk(lambda: self._journal.read(turn.position))
        verdict, why, retry_after_s = Verdict.GONE, "", None
        if found is None:
            why = "no longer stored"
        elif time.time() - found[0].at > self.settings.keep_s:
            why = f"not accepted within {self.settings.keep_s:g} s"
        else:
            verdict, why, retry_after_s = await self._post(found[0])
        self._backlog.settle(turn, verdict, asyncio.get_running_loop().time(), retry_after_s)
        if verdict is Verdict.FAILED:
            self.figures.retried += 1
            if not was_failing:
                log.warning("webhook.failing", receiver=self.name, reason=why)
        else:
            self._settled(turn, verdict, why, found)
            if was_failing and not self.failing:
                log.info("webhook.recovered", receiver=self.name, waiting=self.waiting)
        if not self.waiting or self.failing:
            self._quiet.set()
        self._turn.set()

    def _settled(self, turn: Turn, verdict: Verdict, why: str, found: tuple[Record, int] | None) -> None:
        if verdict is Verdict.ACCEPTED:
            self.figures.delivered += 1
        else:
            self._give_up(1, why)
        if found is not None:
            self._done.append((turn.position, found[1]))
            self._unread.set()

    async def _post(self, record: Record) -> tuple[Verdict, str, float | None]:
        settings = self.settings
        headers = signing.headers(settings.secret.get_secret_value(), record.id, int(time.time()), record.body)
        try:
            answer = await post(self._http, settings.url, record.body, headers, within_s=settings.timeout_s)
        except NoAnswer as error:
            return Verdict.FAILED, str(error), None
        return judge(answer), f"answered {answer.status}", answer.retry_after_s

    def _give_up(self, count: int, why: str) -> None:
        """Count what is given up, and say so, but not a thousand times a second."""
        self.figures.given_up += count
        self._unlogged += count
        now = time.monotonic()
        if self._unlogged and now - self._logged_at >= _LOG_EVERY_S:
            log.warning("webhook.given_up", receiver=self.name, count=self._unlogged, reason=why)
            self._logged_at, self._unlogged = now, 0

    async def _on_disk(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)


def erase_calls(folder: Path, calls: Collection[str]) -> None:
    """Blacken every event of these calls in the journal of a receiver that nobody sends from; blocking."""
    journal = Journal(folder)
    erase(journal, [position for call, position in journal.open() if call in calls])
    journal.close()


def erase(journal: Journal, positions: Iterable[int]) -> None:
    """Blacken events in a journal, in the thread of the disk."""
    found = [(position, journal.read(position)) for position in positions]
    journal.erase([(position, record[1]) for position, record in found if record is not None])
