"""/livez, /readyz, /healthz and /metrics: open to everybody who reaches the listener; they tell nothing of any call."""

from collections.abc import Callable

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

Health = dict[str, object]
"""Holds ``status`` (ok, degraded, starting, draining) and ``ready``: whether a call could be taken now."""


def health_routes(health: Callable[[], Health], metrics_page: Callable[[], bytes]) -> APIRouter:
    """The routes that supervisors, load balancers and Prometheus ask."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", summary="Is the process alive")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Could a call be taken now: 200, else 503")
    async def readyz() -> JSONResponse:
        body = health()
        return JSONResponse(body, status_code=200 if body["ready"] else 503)

    @router.get("/healthz", summary="200 for ok and degraded, 503 for starting and draining")
    async def healthz() -> JSONResponse:
        body = health()
        return JSONResponse(body, status_code=200 if body["status"] in ("ok", "degraded") else 503)

    @router.get("/metrics", summary="Prometheus")
    async def metrics() -> Response:
        return Response(metrics_page(), media_type="text/plain; version=0.0.4")

    return router
