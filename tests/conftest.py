"""What every test stands on: no task outlives its test, and real far ends where a test asks for one."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.peers.processes import search_path

PEERS = {
    "baresip": "baresip",
    "espeak-ng": "espeak-ng",
    "postgres": "postgresql",
    "sipp": "sip-tester",
    "tcpdump": "tcpdump",
    "tshark": "tshark",
}
"""Programs that tests use as far ends, and the Debian package of each."""


def pytest_configure(config: pytest.Config) -> None:
    """Run every loop in debug mode: slow callbacks and never-awaited coroutines show."""
    os.environ.setdefault("PYTHONASYNCIODEBUG", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A missing peer fails in CI and is skipped elsewhere, with its install line."""
    for marker in item.iter_markers("peer"):
        for program in marker.args:
            if shutil.which(program, path=search_path()) is None:
                line = f"{program} is missing: apt-get install {PEERS[program]}"
                if os.environ.get("CI"):
                    pytest.fail(line)
                pytest.skip(line)


@pytest_asyncio.fixture(autouse=True)
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail a test that leaves a task running on its loop."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)
    leaked = [t for t in asyncio.all_tasks() - before if not t.done() and t is not asyncio.current_task()]
    for task in leaked:
        task.cancel()
    assert not leaked, f"tasks outlived the test: {leaked}"
