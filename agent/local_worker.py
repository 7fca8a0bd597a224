"""A model worker process of this machine, kept alive by the gateway."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import BinaryIO, Final

import structlog

from config.process import start_quietly
from config.schema import ModelSettings
from config.secrets import revealed

log = structlog.get_logger(__name__)

_RESTART_PAUSE_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Before the n-th start in a row that did not live for a minute; the last one repeats."""
_EXIT_WITHIN_S: Final = 5.0


def hand_over(settings: ModelSettings, log_level: str) -> BinaryIO:
    """A file without a name that tells a worker process its settings; ``handed_over`` reads it."""
    file = os.fdopen(os.memfd_create("denwa-model-settings"), "r+b")
    values = {"log_level": log_level, "settings": settings.model_dump(mode="json") | revealed(settings)}
    file.write(json.dumps(values).encode())
    file.seek(0)
    return file


def handed_over(fd: int) -> tuple[ModelSettings, str]:
    """The settings and the log level in the inherited file ``fd``."""
    with os.fdopen(fd, "rb") as file:
        values = json.loads(file.read())
    return ModelSettings.model_validate(values["settings"]), values["log_level"]


class LocalWorker:
    """Runs ``denwa worker`` for one model and starts it again when it dies.

    The listening socket belongs to the gateway and is inherited by each worker process in turn: the port stays, and
    whoever connects between two processes waits in the socket's backlog instead of being refused. Each process is
    handed its settings too, in a file without a name: the configuration may have become another, or a broken one.
    """

    def __init__(self, model: str, settings: ModelSettings, log_level: str) -> None:
        self.model = model
        self._settings = settings
        self._log_level = log_level
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
        with hand_over(self._settings, self._log_level) as settings:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent.cli", "worker", "--model", self.model),
                *("--fd", str(fd), "--settings-fd", str(settings.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(fd, settings.fileno()),
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
