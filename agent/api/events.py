"""/v1/events: what happens, as server-sent events (WHATWG HTML, section 9.2)."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query
from fastapi.responses import StreamingResponse

from agent.events.stream import Stream, Subscription, TooManyReaders
from config.schema import EventKind


def event_routes(stream: Stream) -> APIRouter:
    """The route for whoever reads along."""
    router = APIRouter(prefix="/v1", tags=["events"])

    @router.get("/events", summary="What happens, as it happens", response_class=StreamingResponse)
    async def events(
        call: str | None = None,
        kind: Annotated[list[EventKind] | None, Query()] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        try:
            subscription = stream.subscribe(call, kind, last_event_id)
        except TooManyReaders as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "5"}) from None
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_read(subscription), media_type="text/event-stream", headers=headers)

    return router


async def _read(subscription: Subscription) -> AsyncIterator[str]:
    with subscription:
        async for text in subscription:
            yield text
