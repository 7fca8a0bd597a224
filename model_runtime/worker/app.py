"""The worker's ASGI application: model sessions over WebSocket, health and metrics. Runs on the event loop."""

import asyncio
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from model_runtime.engine.engine import Engine
from model_runtime.worker.health import WorkerHealth
from model_runtime.worker.metrics import registry
from model_runtime.worker.protocol import SESSION_PATH
from model_runtime.worker.session import Patience, WorkerSession


class Worker:
    """One engine and the sessions on it."""

    def __init__(
        self, model: str, engine: Engine, *, patience: Patience | None = None, dump_dir: Path | None = None
    ) -> None:
        """``model`` is the name under which clients and metrics know what is served here."""
        self._model = model
        self._engine = engine
        self._patience = patience or Patience()
        self._dump_dir = dump_dir
        self._sessions: set[WorkerSession] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._audio_dropped = 0
        self._registry = registry(model, engine, self.audio_dropped)
        self.draining = False

    async def session(self, websocket: WebSocket) -> None:
        """Serve /v1/session."""
        await websocket.accept()
        session = WorkerSession(websocket, self._engine, self._model, patience=self._patience, dump_dir=self._dump_dir)
        if self.draining:
            return await session.refuse()
        self._sessions.add(session)
        self._empty.clear()
        try:
            await session.run()
        finally:
            self._sessions.remove(session)
            self._audio_dropped += session.audio_dropped
            if not self._sessions:
                self._empty.set()

    def drain(self) -> None:
        """Take no more sessions, and ask those there are to move; idempotent."""
        if not self.draining:
            self.draining = True
            for session in self._sessions:
                session.drain()

    async def wait_empty(self) -> None:
        """Wait until no session is left."""
        await self._empty.wait()

    def audio_dropped(self) -> int:
        """Frames sent without audio since the start, because clients read too slowly."""
        return self._audio_dropped + sum(session.audio_dropped for session in self._sessions)

    def health(self) -> WorkerHealth:
        """How this worker is."""
        p99 = self._engine.p99_s
        return WorkerHealth(
            status="draining" if self.draining else "slow" if self._engine.slow else "ok",
            model=self._model,
            slots=self._engine.slots,
            free=self._engine.free,
            p99_step_ms=None if p99 is None else round(p99 * 1000, 3),
        )

    async def healthz(self, request: Request) -> Response:
        """Serve /healthz: 503 while draining."""
        health = self.health()
        status = 503 if health.status == "draining" else 200
        return Response(health.to_json(), status, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """Serve /metrics."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def create_app(worker: Worker) -> Starlette:
    """The routes of a worker."""
    return Starlette(
        routes=[
            WebSocketRoute(SESSION_PATH, worker.session),
            Route("/healthz", worker.healthz),
            Route("/metrics", worker.metrics),
        ]
    )
