"""agent/events/stream.py: readers get what they asked for, and harm nobody."""

import gc
import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agent.events.event import Event
from agent.events.stream import MAX_READERS, RING, Stream, TooManyReaders
from config.schema import EventKind


def _publish(stream: Stream, number: int, call: str = "a", kind: EventKind = "dtmf") -> None:
    event = Event(f"evt_{number}", kind, call, datetime.now(UTC), number, {"text": "line\r\nline\u2028"})
    stream.publish(event, event.body())


def _fields(text: str) -> dict[str, Any]:
    assert text.endswith("\n\n")
    return dict(line.split(": ", 1) for line in text.strip().split("\n") if not line.startswith(":"))


async def _ids(reader: Any, count: int) -> list[str]:
    return [_fields(await anext(reader))["id"] for _ in range(count)]


async def test_a_reader_gets_what_it_asked_for() -> None:
    """Events of a call and of some kinds, one line of data each."""
    stream = Stream()
    with stream.subscribe() as everything, stream.subscribe("b", ["barge_in"]) as some:
        assert (await anext(everything)).startswith(":")
        assert (await anext(some)).startswith(":")
        _publish(stream, 0)
        _publish(stream, 1, "b")
        _publish(stream, 2, "b", "barge_in")
        first = _fields(await anext(everything))
        assert first["event"] == "dtmf"
        assert json.loads(first["data"])["data"] == {"text": "line\r\nline\u2028"}
        assert await _ids(everything, 2) == ["evt_1", "evt_2"]
        assert await _ids(some, 1) == ["evt_2"]


async def test_a_reader_comes_back_to_where_it_was() -> None:
    """With ``Last-Event-ID`` nothing is missed and nothing comes twice; a forgotten one is told so."""
    stream = Stream()
    for number in range(RING + 10):
        _publish(stream, number)
    with stream.subscribe(last_id=f"evt_{RING + 6}") as reader:
        await anext(reader)
        _publish(stream, RING + 10)
        assert await _ids(reader, 4) == [f"evt_{RING + number}" for number in (7, 8, 9, 10)]
    with stream.subscribe(last_id="evt_3") as reader:
        await anext(reader)
        notice = _fields(await anext(reader))
        assert notice == {"event": "lagged", "data": '{"missed": null}'}
        assert await _ids(reader, 2) == ["evt_11", "evt_12"]
    stream.purge(["a"])
    with stream.subscribe(last_id="evt_3") as reader:
        _publish(stream, 5000, "b")
        assert [_fields(await anext(reader)).get("id") for _ in range(3)][1:] == [None, "evt_5000"]


async def test_a_slow_reader_is_let_go() -> None:
    """Who does not read is told how much it missed, and costs no more memory than its queue."""
    stream = Stream()
    with stream.subscribe() as slow:
        for number in range(600):
            _publish(stream, number)
        assert stream.readers == 0
        notice = _fields(await anext(slow))
        assert notice["event"] == "lagged"
        assert "id" not in notice
        assert json.loads(notice["data"])["missed"] >= 256
        assert [text async for text in slow] == []


async def test_a_silent_stream_is_kept_alive() -> None:
    """When nothing happens a comment comes."""
    stream = Stream(keep_alive_s=0.02)
    with stream.subscribe() as reader:
        assert [await anext(reader) for _ in range(3)][1:] == [": keep-alive\n\n"] * 2


async def test_readers_are_bounded_and_forgotten_ones_leave_their_place() -> None:
    """One too many is turned away; a reader that nobody holds any more does not count."""
    stream = Stream()
    readers = [stream.subscribe() for _ in range(MAX_READERS)]
    with pytest.raises(TooManyReaders):
        stream.subscribe()
    readers.pop()
    gc.collect()
    stream.subscribe().close()
    stream.close()
    assert all(reader.closed for reader in readers)
    with pytest.raises(TooManyReaders):
        stream.subscribe()


async def test_a_web_application_can_send_it() -> None:
    """A subscription is the body of a streaming response, which ends with the stream."""
    stream = Stream()

    async def page(request: Request) -> Response:
        reader = stream.subscribe(last_id=request.headers.get("last-event-id"))
        stream.close()
        return StreamingResponse(reader, media_type="text/event-stream")

    _publish(stream, 0)
    _publish(stream, 1)
    app = Starlette(routes=[Route("/events", page)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://denwa") as http:
        got = await http.get("/events", headers={"last-event-id": "evt_0"})
    assert "id: evt_1\nevent: dtmf\n" in got.text
