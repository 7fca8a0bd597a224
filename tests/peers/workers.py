"""Model workers that tests start: waiting until one answers."""

import asyncio
import time
from collections.abc import Callable

from model_runtime.errors import ModelLost
from model_runtime.worker.health import probe

START_S = 60.0


async def until_it_answers(url: str, process: asyncio.subprocess.Process, why: Callable[[], str]) -> None:
    """Return once the worker at ``url`` answers; where it ends or takes too long, fail with ``why`` it might have."""
    until = time.monotonic() + START_S
    while True:
        try:
            await probe(url)
        except ModelLost:
            if process.returncode is not None or time.monotonic() > until:
                raise AssertionError(await asyncio.to_thread(why)) from None
            await asyncio.sleep(0.1)
        else:
            return
