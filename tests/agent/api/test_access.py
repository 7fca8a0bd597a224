"""agent/api/access.py: who may use the API."""

import httpx
import pytest
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from agent.api.access import Access

TOKEN = "0123456789abcdef"


async def status(token: str | None, headers: dict[str, str], base: str = "http://127.0.0.1:8080") -> int:
    """The answer to one request."""
    app = FastAPI()

    @app.post("/x", dependencies=[Depends(Access(None if token is None else SecretStr(token)))])
    async def x() -> str:
        return "done"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
        return (await client.post("/x", headers=headers)).status_code


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
