"""A model worker process of this machine, kept alive by the gateway."""

import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import structlog

from config.process import start_quietly

log = structlog.get_logger(__name__)

_RESTART_PAUSE_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Before the n-th start in a row that did not live for a minute; the last one repeats."""
_EXIT_WITHIN_S: Final = 5.0


class LocalWorker:
    """Runs ``denwa worker`` for one model and starts it again when it dies.

    The listening socket belongs to the gateway and is inherited by each worker process in turn: the port stays, and
    whoever connects between two processes waits in the socket's backlog instead of being refused.
    """

    def __init__(self, model: str, config: Path) -> None:
        self.model = model
        self._config = config
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        host, port = self._socket.getsockname()
        self.url = f"ws://{host}:{port}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process now running, if one is."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep one process running until cancelled; then end it and let the port go."""
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while True:
                await asyncio.sleep(_RESTART_PAUSE_S[min(failures, len(_RESTART_PAUSE_S) - 1)])
                started = loop.time()
                code = await self._run_once()
                failures = 0 if loop.time() - started > 60 else failures + 1
                log.error("model_worker.died", model=self.model, exit_code=code, starts_failed=failures)
        finally:
            await self._end()
            self._socket.close()

    async def _run_once(self) -> int:
        fd = self._socket.fileno()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agent.cli", "worker", "--config", str(self._config)),
            *("--model", self.model, "--fd", str(fd)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(fd,),
            start_new_session=True,  # a Ctrl-C at the terminal is for the gateway alone
        )
        start_quietly(self._process.pid)
        log.info("model_worker.started", model=self.model, pid=self._process.pid, url=self.url)
        return await self._process.wait()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_EXIT_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
