"""The worker's ASGI application: model sessions over WebSocket, health and metrics. Runs on the event loop."""

import asyncio
from pathlib import Path
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from model_runtime.engine.engine import Engine
from model_runtime.worker.auth import is_authorized, shows_credentials, unauthorized
from model_runtime.worker.health import WorkerHealth
from model_runtime.worker.kyutai import CHAT_PATH, KyutaiSession
from model_runtime.worker.metrics import registry
from model_runtime.worker.ogg_opus import opus_missing
from model_runtime.worker.protocol import SESSION_PATH
from model_runtime.worker.session import Patience, WorkerSession


class _Session(Protocol):
    """One client's conversation, in whichever protocol."""

    @property
    def audio_dropped(self) -> int:
        """Frames whose audio became too old because the client reads too slowly."""

    async def run(self) -> None:
        """Converse until either side ends."""

    async def refuse(self) -> None:
        """Send the client elsewhere."""

    def drain(self) -> None:
        """Ask the client to move."""


class Worker:
    """One engine and the sessions on it."""

    def __init__(
        self,
        model: str,
        engine: Engine,
        *,
        patience: Patience | None = None,
        dump_dir: Path | None = None,
        token: SecretStr | None = None,
    ) -> None:
        """``model`` is the name under which clients and metrics know what is served here.

        Where there is a ``token``, sessions are for those who show it.
        """
        self._model = model
        self._engine = engine
        self._patience = patience or Patience()
        self._dump_dir = dump_dir
        self._token = token
        self._sessions: set[_Session] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._audio_dropped = 0
        self._registry = registry(model, engine, self.audio_dropped)
        self.draining = False

    async def session(self, websocket: WebSocket) -> None:
        """Serve /v1/session; 401 without the token."""
        if not is_authorized(websocket, self._token):
            return await websocket.send_denial_response(unauthorized())
        await websocket.accept()
        await self._converse(
            WorkerSession(websocket, self._engine, self._model, patience=self._patience, dump_dir=self._dump_dir)
        )

    async def chat(self, websocket: WebSocket) -> None:
        """Serve /api/chat, Kyutai's protocol; 401 without the token, 501 without the package that codes Opus."""
        if not is_authorized(websocket, self._token):
            return await websocket.send_denial_response(unauthorized())
        if why := opus_missing():
            return await websocket.send_denial_response(PlainTextResponse(why + "\n", 501))
        await websocket.accept()
        await self._converse(KyutaiSession(websocket, self._engine, patience=self._patience))

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
        """Serve /healthz: 503 while draining.

        It asks for no token, but says 401 to one that is not right, so that a gateway learns it before its callers do.
        """
        if shows_credentials(request) and not is_authorized(request, self._token):
            return unauthorized()
        health = self.health()
        status = 503 if health.status == "draining" else 200
        return Response(health.to_json(), status, media_type="application/json")

    async def metrics(self, request: Request) -> Response:
        """Serve /metrics."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def _converse(self, session: _Session) -> None:
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


def create_app(worker: Worker) -> Starlette:
    """The routes of a worker."""
    return Starlette(
        routes=[
            WebSocketRoute(SESSION_PATH, worker.session),
            WebSocketRoute(CHAT_PATH, worker.chat),
            Route("/healthz", worker.healthz),
            Route("/metrics", worker.metrics),
        ]
    )
