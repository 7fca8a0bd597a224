"""The model worker process: load a model, serve it until told to stop, let its conversations end or move."""

import asyncio
import gc
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
import uvloop
from pydantic import SecretStr

from config.process import die_with_parent, prefer_media
from config.schema import ModelSettings
from model_runtime.engine.engine import Engine
from model_runtime.engine.model import Model
from model_runtime.errors import LocalModelError
from model_runtime.worker.app import Worker, create_app
from model_runtime.worker.models import load_model
from model_runtime.worker.protocol import MAX_OPEN_BYTES

log = logging.getLogger(__name__)

DEFAULT_LISTEN: Final = ("127.0.0.1", 8998)
_SWITCH_INTERVAL_S: Final = 0.0005
"""How long the engine thread may keep the event loop from the interpreter's lock."""
_SEND_BUFFER: Final = 32_768  # bytes; what a client does not read waits here, and should not wait long


def serve_worker(
    name: str,
    settings: ModelSettings,
    *,
    listen: tuple[str, int] | None = None,
    fd: int | None = None,
    dump: Path | None = None,
    drain_s: float = 30.0,
) -> None:
    """Serve the model until SIGTERM or SIGINT and then, at most ``drain_s`` longer, until its conversations have ended.

    Listens on ``listen`` or on ``fd``, a listening socket inherited from the parent process, in which case this
    process dies with its parent. ``dump`` is a folder for a record of every session. Raises ``CheckpointError``, and
    ``LocalModelError`` where the address is taken or the model stopped working.
    """
    if fd is not None:
        die_with_parent()
    listener = _listener(listen or DEFAULT_LISTEN) if fd is None else socket.socket(fileno=fd)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        model = load_model(settings)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        gc.collect()
        gc.freeze()
        prefer_media()
        uvloop.run(_serve(name, model, listener, dump, drain_s, settings.token))


async def _serve(
    name: str, model: Model, listener: socket.socket, dump: Path | None, drain_s: float, token: SecretStr | None
) -> None:
    engine = Engine(model)
    worker = Worker(name, engine, dump_dir=dump, token=token)
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(
        create_app(worker),
        loop="none",
        http="h11",
        ws="websockets-sansio",
        ws_max_size=MAX_OPEN_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = _Server(config, lambda: loop.call_soon_threadsafe(told_to_stop.set))
    engine.start()
    log.info("worker.listening model=%s address=%s", name, listener.getsockname())
    if token is None and not _is_loopback(listener):
        log.warning("worker.open: whoever reaches this address can talk to the model; models.%s.token asks more", name)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]), name="uvicorn")
            end = [
                tasks.create_task(told_to_stop.wait(), name="told to stop"),
                tasks.create_task(engine.stopped.wait(), name="engine stopped"),
            ]
            await asyncio.wait(end, return_when=asyncio.FIRST_COMPLETED)
            await _drain(worker, drain_s)
            for each in end:
                each.cancel()
            server.should_exit = True
    finally:
        engine.close()
    if engine.stopped.is_set():
        raise LocalModelError(f"model {name}: stopped working; see the log")


async def _drain(worker: Worker, drain_s: float) -> None:
    """Let the conversations end or move, for a while."""
    log.info("worker.draining")
    worker.drain()
    try:
        async with asyncio.timeout(drain_s):
            await worker.wait_empty()
    except TimeoutError:
        log.warning("worker.drain_timed_out")


class _Server(uvicorn.Server):
    """Uvicorn, but a signal begins the drain where uvicorn would close every connection. Twice: close them."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_signal = on_signal
        self._signalled = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the interpreter for SIGTERM and SIGINT."""
        self._on_signal()
        self.should_exit |= self._signalled
        self._signalled = True


def _listener(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=512)
    except OSError as error:
        raise LocalModelError(f"{host}:{port}: {error.strerror or error}") from None


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
