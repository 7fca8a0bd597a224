"""agent/api/access.py: who may use the API."""

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from agent.api.access import MAX_BODY_BYTES, Access

TOKEN = "0123456789abcdef"
HERE = "http://127.0.0.1:8080"


async def status(
    token: str | None,
    headers: dict[str, str],
    base: str = "http://127.0.0.1:8080",
    body: bytes = b"",
    path: str = "/v1/x",
) -> int:
    """The answer to one request."""
    app = FastAPI()
    app.add_middleware(Access, token=None if token is None else SecretStr(token))

    @app.post("/v1/x")
    @app.post("/x")
    async def x() -> str:
        return "done"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
        return (await client.post(path, headers=headers, content=body)).status_code


@pytest.mark.parametrize(
    ("headers", "base", "expected"),
    [
        ({}, "http://127.0.0.1:8080", 200),
        ({}, "http://localhost:8080", 200),
        ({}, "http://[::1]:8080", 200),
        ({"Origin": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080", 200),
        ({"Origin": "https://evil.example"}, "http://127.0.0.1:8080", 403),
        ({"Origin": "null"}, "http://127.0.0.1:8080", 403),
        ({"Origin": "http://127.0.0.1:9"}, "http://127.0.0.1:8080", 403),
        ({}, "http://evil.example:8080", 403),  # DNS rebinding
    ],
)
async def test_without_a_token_it_is_for_programs_of_this_machine(
    headers: dict[str, str], base: str, expected: int
) -> None:
    """Not for a web page from elsewhere that has a browser here send requests."""
    assert await status(None, headers, base) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, 403),
    ],
)
async def test_with_a_token_it_is_for_who_shows_it(headers: dict[str, str], expected: int) -> None:
    """From wherever it is shown, but by no page from elsewhere."""
    assert await status(TOKEN, headers, "http://denwa.example:8080") == expected


async def test_what_is_not_of_calls_is_open() -> None:
    """Health and figures are for whoever reaches the listener."""
    assert await status(TOKEN, {}, "http://denwa.example:8080", path="/x") == 200


async def test_a_body_is_bounded_and_read_only_for_who_may_send_one() -> None:
    """Too much, or no one knows how much, is refused by its header fields; without the token before that."""
    shown = {"Authorization": f"Bearer {TOKEN}"}
    assert await status(TOKEN, shown, body=bytes(MAX_BODY_BYTES)) == 200
    assert await status(TOKEN, shown, body=bytes(MAX_BODY_BYTES + 1)) == 413
    assert await status(TOKEN, {}, body=bytes(MAX_BODY_BYTES + 1)) == 401
    assert await status(TOKEN, {**shown, "Transfer-Encoding": "chunked"}) == 411
