"""/v1/records and /v1/callers: what is kept of calls that have ended, and its deletion."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from agent.events.events import Events
from agent.store.call_record import Result
from agent.store.errors import StoreError
from agent.store.queries import CallFilter
from agent.store.retention import Purged
from agent.store.store import Store

_MOST = 1_000


class PurgeOrder(BaseModel):
    """What is to be deleted."""

    model_config = ConfigDict(extra="forbid")

    older_than_days: float | None = Field(None, ge=0, le=36_500)
    """None: what is due by its agent's retention."""


def record_routes(store: Store, events: Events) -> APIRouter:
    """The routes over records."""
    router = APIRouter(prefix="/v1", tags=["records"])

    async def told(purged: Purged) -> dict[str, Any]:
        """Delete what waits to be told of the calls too, and say what was deleted."""
        await events.purge(purged.calls)
        return asdict(purged) | {"complete": purged.complete}

    @router.get("/records", summary="Calls that have ended, the latest first")
    async def records(
        since: datetime | None = None,
        until: datetime | None = None,
        caller: str | None = None,
        agent: str | None = None,
        result: Result | None = None,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 100,
    ) -> list[dict[str, Any]]:
        try:
            found = await store.calls(CallFilter(since, until, caller, agent, result, limit))
        except StoreError as error:
            raise HTTPException(503, str(error)) from None
        return [record.model_dump(mode="json") for record in found]

    @router.get("/records/{call}", summary="One call that has ended")
    async def one(call: Annotated[str, Path(pattern=r"^[0-9a-f]{4,32}$")]) -> dict[str, Any]:
        try:
            record = await store.call(call)
        except StoreError as error:
            raise HTTPException(503, str(error)) from None
        if record is None:
            raise HTTPException(404, f"no record of a call {call}; a call that runs has none yet")
        return record.model_dump(mode="json")

    @router.delete("/callers/{number}", summary="Delete everything that is kept of one caller")
    async def forget(number: str) -> dict[str, Any]:
        try:
            purged = await store.delete_caller(number)
        except StoreError as error:
            raise HTTPException(503, str(error)) from None
        return await told(purged)

    @router.post("/purge", summary="Delete what is due, or every call that is older than so many days")
    async def purge(body: PurgeOrder) -> dict[str, Any]:
        now = datetime.now(UTC)
        try:
            if body.older_than_days is None:
                return await told(await store.purge(now))
            return await told(await store.delete_before(now - timedelta(days=body.older_than_days)))
        except StoreError as error:
            raise HTTPException(503, str(error)) from None

    return router
