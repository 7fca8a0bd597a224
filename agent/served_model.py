"""The models that agents speak with, as the gateway sees them: workers, their free slots, and leases on them."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog
from pydantic import SecretStr

from model_runtime.errors import ModelError, NoFreeSlot
from model_runtime.worker.client import ModelSession, open_session, probe
from model_runtime.worker.protocol import AgentPrompt, Frame, Open

log = structlog.get_logger(__name__)

_PROBE_EVERY_S: Final = 1.0
_PROBE_EVERY_STARTING_S: Final = 0.1
_OPEN_WITHIN_S: Final = 3.0
_PREPARED_WITHIN_S: Final = 20.0
"""With a prompt or a past to take in first, perhaps after those of many others."""


class _Worker:
    """What is known of one worker."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.healthy = False
        self.slots = 0
        self.leased = 0
        self.used_by_others = 0

    @property
    def free(self) -> int:
        return self.slots - self.leased - self.used_by_others if self.healthy else 0


class Lease:
    """The right to one slot of a model, from a call's admission to its end."""

    def __init__(self, model: "ServedModel", worker: _Worker) -> None:
        self._model = model
        self._worker: _Worker | None = worker
        worker.leased += 1

    @property
    def url(self) -> str:
        """The worker's address; empty once released."""
        return "" if self._worker is None else self._worker.url

    def open(self, request: Open, on_frame: Callable[[Frame], None]) -> AbstractAsyncContextManager[ModelSession]:
        """Open a model session on the leased slot; enter the result. Raises ``NoFreeSlot``, ``ModelLost``."""
        assert self._worker is not None, "the lease was released"
        prepared = request.prompt != AgentPrompt() or request.resume is not None
        return open_session(
            self._worker.url,
            request,
            on_frame=on_frame,
            timeout_s=_PREPARED_WITHIN_S if prepared else _OPEN_WITHIN_S,
            token=self._model.token,
        )

    def renew(self) -> None:
        """After a loss: move to the freest healthy worker, or stay where it is if there is none."""
        if (better := self._model.freest()) is not None:
            self._move(better)

    def leave(self) -> bool:
        """After a worker asked to move: move to another one, if any is healthy and has a free slot."""
        better = self._model.freest(but=self._worker)
        if better is not None:
            self._move(better)
        return better is not None

    def release(self) -> None:
        """Give the slot back; idempotent."""
        if self._worker is not None:
            self._worker.leased -= 1
            self._worker = None

    def _move(self, worker: _Worker) -> None:
        if self._worker is not None:
            self._worker.leased -= 1
            self._worker = worker
            worker.leased += 1


class ServedModel:
    """One model of the configuration and the workers that serve it."""

    def __init__(self, name: str, urls: list[str], token: SecretStr | None = None) -> None:
        self.name = name
        self.token = token
        """What the workers ask for, if they do."""
        self._workers = [_Worker(url) for url in urls]
        self.was_up = False
        """Whether a worker has ever reported itself healthy."""

    @property
    def healthy(self) -> bool:
        """Whether a worker can take sessions now."""
        return any(worker.healthy for worker in self._workers)

    @property
    def free_slots(self) -> int:
        """Slots that a new call could have now."""
        return sum(max(0, worker.free) for worker in self._workers)

    def lease(self) -> Lease:
        """Take a slot; raises ``NoFreeSlot``."""
        worker = self.freest()
        if worker is None:
            raise NoFreeSlot(f"model {self.name}: no free slot")
        return Lease(self, worker)

    def freest(self, but: _Worker | None = None) -> _Worker | None:
        """The healthy worker with the most free slots, if any ``but`` that one has one."""
        candidates = [each for each in self._workers if each is not but and each.free > 0]
        return max(candidates, key=lambda each: each.free, default=None)

    async def watch(self) -> None:
        """Ask every worker for its health, again and again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for worker in self._workers:
                tasks.create_task(self._watch(worker), name=f"watch {worker.url}")

    async def _watch(self, worker: _Worker) -> None:
        while True:
            leased = worker.leased
            try:
                health = await probe(worker.url, token=self.token)
            except ModelError as error:
                self._set_health(worker, healthy=False, why=str(error))
            else:
                worker.slots = health.slots
                worker.used_by_others = max(0, health.slots - health.free - max(leased, worker.leased))
                self._set_health(worker, healthy=health.status == "ok", why=health.status)
            await asyncio.sleep(_PROBE_EVERY_S if worker.healthy else _PROBE_EVERY_STARTING_S)

    def _set_health(self, worker: _Worker, *, healthy: bool, why: str) -> None:
        if healthy != worker.healthy:
            log.info("model_worker.health", model=self.name, url=worker.url, healthy=healthy, why=why)
        worker.healthy = healthy
        self.was_up |= healthy
