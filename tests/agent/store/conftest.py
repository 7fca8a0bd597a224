"""Databases for the store's tests: a real file, and a real PostgreSQL that all of a run's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.peers.postgres import Postgres, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A running PostgreSQL."""
    with postgres() as running:
        yield running


@pytest_asyncio.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgres"))])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/db/denwa.db"
    running: Postgres = request.getfixturevalue("server")
    return await running.create_database()
