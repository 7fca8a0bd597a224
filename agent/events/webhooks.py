"""Every receiver of webhooks, and the folder where their events wait. On the gateway's event loop.

``FOLDER/NAME/`` is the journal of the receiver NAME. One gateway at a time may use a folder.
"""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import structlog

from agent.events.backlog import Backoff
from agent.events.event import Event
from agent.events.journal import Journal, Record
from agent.events.post import http_client
from agent.events.receiver import Figures, Receiver, erase_calls
from config.schema import WebhookReceiver

log = structlog.get_logger(__name__)

_LINGER_S: Final = 2.0
"""How long the last events may take to be delivered when the gateway ends; what is left waits for its restart."""


class Webhooks:
    """The receivers of a gateway. ``async with`` takes up what an earlier process left, and starts sending."""

    def __init__(self, folder: Path, receivers: Mapping[str, WebhookReceiver], backoff: Backoff | None = None) -> None:
        self._folder = folder
        self._wanted = receivers
        self._backoff = backoff or Backoff()
        self._receivers: dict[str, Receiver] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._figures: dict[str, Figures] = {}
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._stack = contextlib.AsyncExitStack()
        self._http: httpx.AsyncClient | None = None
        self._tasks: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._disk.shutdown)
            self._http = await stack.enter_async_context(http_client())
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(self._close)
            await self.reconfigure(self._wanted)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._stack:
            if kind is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER_S):
                        for receiver in self._receivers.values():
                            await receiver.linger()

    @staticmethod
    def purge_folder(folder: Path, calls: Collection[str]) -> None:
        """Blacken every waiting event of these calls where no gateway uses the folder; blocking."""
        for journal in sorted(folder.glob("*/")):
            erase_calls(journal, calls)

    @property
    def figures(self) -> Mapping[str, Figures]:
        """What became of events since the process started, by receiver; those of removed receivers stay."""
        return self._figures

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many events wait, by receiver."""
        return {name: receiver.waiting for name, receiver in self._receivers.items()}

    def send(self, event: Event, body: bytes) -> None:
        """Tell every receiver that wants to know; never blocks."""
        record: Record | None = None
        for receiver in self._receivers.values():
            if event.kind in receiver.settings.events:
                record = record or Record(event.call or "", event.at.timestamp(), event.id, body)
                receiver.put(record)

    async def reconfigure(self, receivers: Mapping[str, WebhookReceiver]) -> None:
        """Go on with other receivers; what waits for those that stay is sent to their new address.

        What waits for a receiver that is gone stays on disk, until it comes back or somebody deletes the folder.
        """
        assert self._tasks is not None, "entered first"
        gone = [name for name in self._receivers if name not in receivers]
        for name in gone:
            self._receivers.pop(name).close()
        for name, settings in receivers.items():
            if name in self._receivers:
                self._receivers[name].settings = settings
            else:
                self._start(name, settings)
        if gone:
            await asyncio.wait([self._runs.pop(name) for name in gone])
        await self._report_leftovers()

    async def purge(self, calls: Collection[str]) -> None:
        """Give up and blacken every waiting event of these calls, those for removed receivers too."""
        for receiver in list(self._receivers.values()):
            await receiver.purge(calls)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._disk, self._purge_leftovers, set(calls), set(self._runs))

    def _start(self, name: str, settings: WebhookReceiver) -> None:
        assert self._http is not None
        assert self._tasks is not None
        journal = Journal(self._folder / name)
        receiver = Receiver(name, settings, journal, self._http, self._disk, self._backoff)
        receiver.figures = self._figures.setdefault(name, receiver.figures)
        self._receivers[name] = receiver
        self._runs[name] = self._tasks.create_task(receiver.run(), name=f"webhooks {name}")

    async def _report_leftovers(self) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._disk, self._leftovers, set(self._runs))
        for name, size in found.items():
            log.warning("webhook.leftovers", receiver=name, folder=str(self._folder / name), bytes=size)

    def _leftovers(self, known: set[str]) -> dict[str, int]:
        """Folders of receivers that are not configured, and their size in bytes; in the thread of the disk."""
        found: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for folder in self._folder.iterdir():
                size = sum(file.stat().st_size for file in folder.glob("*.events"))
                if folder.name not in known and size:
                    found[folder.name] = size
        return found

    def _purge_leftovers(self, calls: set[str], known: set[str]) -> None:
        for name in self._leftovers(known):
            erase_calls(self._folder / name, calls)

    def _close(self) -> None:
        for receiver in self._receivers.values():
            receiver.close()
