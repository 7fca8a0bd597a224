"""Kyutai's own client, as it is published, talks to a worker; only its sound card is ours."""

import asyncio
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from config.schema import ModelSettings
from tests.model_runtime.worker.process import BOUND_S, worker_process

BLOCKS = 25
"""Two seconds."""

Callback = Callable[[NDArray[np.float32], int, None, None], None]


class SoundCard:
    """Stands in for the package ``sounddevice``: a microphone that hears a tone, a loudspeaker that remembers."""

    def __init__(self) -> None:
        self.heard: list[NDArray[np.float32]] = []
        self.enough = threading.Event()
        module: Any = ModuleType("sounddevice")
        module.InputStream = lambda **settings: _Stream(self._speak, **settings)
        module.OutputStream = lambda **settings: _Stream(self._listen, **settings)
        self.module: ModuleType = module

    def _speak(self, block: int, size: int, callback: Callback) -> None:
        at = (np.arange(size) + block * size) / 24_000
        callback((0.2 * np.sin(2 * np.pi * 300 * at)).astype(np.float32)[:, None], size, None, None)

    def _listen(self, block: int, size: int, callback: Callback) -> None:
        out = np.zeros((size, 1), np.float32)
        callback(out, size, None, None)
        self.heard.append(out[:, 0])
        if len(self.heard) >= BLOCKS:
            self.enough.set()


class _Stream:
    """Calls back for every block, in time, on a thread of its own, as PortAudio does."""

    def __init__(
        self,
        tick: Callable[[int, int, Callback], None],
        *,
        samplerate: int,
        channels: int,
        blocksize: int,
        callback: Callback,
    ) -> None:
        self._tick = tick
        self._size = blocksize
        self._seconds = blocksize / samplerate
        self._callback = callback
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sound card", daemon=True)

    def __enter__(self) -> "_Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(BOUND_S)

    def _run(self) -> None:
        began, block = time.monotonic(), 0
        while not self._stopped.wait(max(0.0, began + block * self._seconds - time.monotonic())):
            self._tick(block, self._size, self._callback)
            block += 1


async def test_kyutais_client_hears_itself(oracle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """moshi.client connects, speaks a tone into an echo and plays it at its level, without a gap once it has begun."""
    if importlib.util.find_spec("aiohttp") is None:
        assert not os.environ.get("CI"), "the package aiohttp is missing"
        pytest.skip("the package aiohttp is missing: pip install aiohttp")
    card = SoundCard()
    monkeypatch.setitem(sys.modules, "sounddevice", card.module)
    from moshi import client
    from moshi.client_utils import RawPrinter

    async with worker_process(ModelSettings(kind="echo", slots=1)) as worker:
        arguments = SimpleNamespace(url=worker.url.replace("ws://", "http://"))
        async with asyncio.TaskGroup() as tasks:
            talking = tasks.create_task(client.run(RawPrinter(), arguments), name="moshi.client")
            assert await asyncio.to_thread(card.enough.wait, BOUND_S)
            talking.cancel()
    monkeypatch.delitem(sys.modules, "moshi.client")  # it holds our sound card
    steady = np.concatenate(card.heard[8:])
    assert np.sqrt(np.mean(steady**2)) == pytest.approx(0.2 / np.sqrt(2), rel=0.05)
    assert sum(not block.any() for block in card.heard[8:]) <= 1  # the machine is shared
