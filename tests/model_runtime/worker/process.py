"""A model worker as a process of its own, on a listening socket that outlives it."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from config.schema import ModelSettings
from model_runtime.errors import ModelError
from model_runtime.worker.client import ModelSession, WorkerHealth, probe
from model_runtime.worker.protocol import Frame

BOUND_S = 20.0
_PROGRAM = """
import sys
from pathlib import Path
from config.schema import ModelSettings
from model_runtime.worker.serve import serve_worker
fd, settings, dump, drain_s = sys.argv[1:]
serve_worker("line", ModelSettings.model_validate_json(settings), fd=int(fd), dump=Path(dump) if dump else None,
             drain_s=float(drain_s))
"""


class WorkerProcess:
    """Starts worker processes on one port, one after the other."""

    def __init__(self, settings: ModelSettings, dump: Path | None = None, drain_s: float = 30.0) -> None:
        token = settings.token and settings.token.get_secret_value()
        shown = json.dumps(settings.model_dump(mode="json") | {"token": token})
        self._arguments = [shown, str(dump or ""), str(drain_s)]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process now running."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> WorkerHealth:
        """Start a process (warnings are errors in it) and wait until it answers."""
        fd = self._listener.fileno()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", _PROGRAM, str(fd), *self._arguments), pass_fds=(fd,)
        )
        return await probe(self.url, timeout_s=BOUND_S)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for the process' end; return its exit code."""
        assert self._process is not None
        async with asyncio.timeout(BOUND_S):
            return await self._process.wait()

    async def close(self) -> None:
        """Kill what runs, and let the port go."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._listener.close()


@asynccontextmanager
async def worker_process(
    settings: ModelSettings, dump: Path | None = None, drain_s: float = 30.0
) -> AsyncIterator[WorkerProcess]:
    """A running worker."""
    worker = WorkerProcess(settings, dump, drain_s)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.close()


class Inbox:
    """Collects a session's frames."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self._came = asyncio.Event()

    def __call__(self, frame: Frame) -> None:
        """Take a frame."""
        self.frames.append(frame)
        self._came.set()

    async def wait(self, count: int) -> None:
        """Wait until that many frames have come."""
        async with asyncio.timeout(BOUND_S):
            while len(self.frames) < count:
                self._came.clear()
                await self._came.wait()


async def ended(session: ModelSession) -> ModelError | None:
    """Wait for a session's end; return what it raised."""
    try:
        async with asyncio.timeout(BOUND_S):
            await session.wait_closed()
    except ModelError as error:
        return error
    return None
