"""The API, put together."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from pydantic import SecretStr

from agent.api.access import Access
from agent.api.administration import administration_routes
from agent.api.calls import call_routes
from agent.api.events import event_routes
from agent.api.health import Health, health_routes
from agent.api.records import record_routes
from agent.configuration import Reloaded
from agent.events.events import Events
from agent.session import Session
from agent.store.store import Store

_DESCRIBED: Final = HTTPBearer(auto_error=False, description="api.token")
"""Only says in the API's description that there is a token; ``Access`` asks for it."""


class Operated(Protocol):
    """What the API shows and moves: the gateway."""

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The conversations that run, by call id."""

    def health(self) -> Health:
        """How it is."""

    def metrics_page(self) -> bytes:
        """Its figures in Prometheus' text format."""

    def running(self) -> list[dict[str, Any]]:
        """The calls that run now."""

    async def reload(self) -> Reloaded:
        """Read the configuration again."""


def create_api(gateway: Operated, store: Store, events: Events, token: SecretStr | None) -> FastAPI:
    """Build the ASGI app. ``GET /openapi.json`` describes it."""
    app = FastAPI(title="Denwa", docs_url=None, redoc_url=None)  # their pages load scripts from elsewhere
    app.include_router(health_routes(gateway.health, gateway.metrics_page))
    for router in (
        call_routes(gateway.sessions, gateway.running),
        record_routes(store, events),
        event_routes(events.stream),
        administration_routes(gateway.reload),
    ):
        app.include_router(router, dependencies=[] if token is None else [Depends(_DESCRIBED)])
    app.add_middleware(Access, token=token)
    return app
