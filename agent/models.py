"""Every model that agents speak with: local workers kept running, all workers' health known (gateway's loop)."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, Self

from agent.local_worker import LocalWorker
from agent.served_model import ServedModel
from config.schema import Settings


class Models:
    """The models in use, by name. ``async with`` runs what ``serve`` names; a model that is served stays so."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End this machine's workers and stop asking the others."""
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def __getitem__(self, name: str) -> ServedModel:
        return self._models[name]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def serve(self, names: set[str] | frozenset[str], settings: Settings) -> None:
        """See that these models of ``settings`` are served; those that are already stay as they are."""
        for name in sorted(names - self._models.keys()):
            model = settings.models[name]
            urls = model.workers
            if not urls:
                worker = LocalWorker(name, model, settings.observability.log_level)
                self._run(worker.run(), f"worker {name}")
                urls = [worker.url]
            served = self._models[name] = ServedModel(name, urls, model.token)
            self._run(served.watch(), f"watch {name}")

    def _run(self, life: Coroutine[Any, Any, None], name: str) -> None:
        self._running.append(self._tasks.create_task(life, name=name))
