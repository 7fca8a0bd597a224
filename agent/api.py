"""The gateway's HTTP listener: /healthz and /metrics. Runs on the gateway's event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.metrics import Metrics

Health = dict[str, object]


def create_api(metrics: Metrics, health: Callable[[], Health]) -> Starlette:
    """Build the ASGI app; ``health()`` must hold ``status``: 200 for "ok" and "degraded", else 503."""

    async def healthz(request: Request) -> Response:
        body = health()
        return JSONResponse(body, status_code=200 if body["status"] in ("ok", "degraded") else 503)

    async def metrics_page(request: Request) -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    return Starlette(routes=[Route("/healthz", healthz), Route("/metrics", metrics_page)])


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: SIGTERM is the gateway's to read."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncIterator[None]:
    """Serve ``app`` on an already listening socket for as long as the context lasts."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listener]), name="http")
        try:
            yield
        finally:
            server.should_exit = True
