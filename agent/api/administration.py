"""POST /v1/reload: the configuration is read again."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from agent.configuration import Reloaded


def administration_routes(reload: Callable[[], Awaitable[Reloaded]]) -> APIRouter:
    """The routes for who operates the gateway."""
    router = APIRouter(prefix="/v1", tags=["administration"])

    @router.post("/reload", summary="Read the configuration again: 200, or 422 and what is wrong with it")
    async def reload_configuration() -> JSONResponse:
        outcome = await reload()
        body = {"accepted": outcome.accepted, "generation": outcome.generation, "findings": list(outcome.findings)}
        return JSONResponse(body, status_code=200 if outcome.accepted else 422)

    return router
