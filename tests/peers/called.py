"""A number of a gateway's and the call to it: waiting for what is said, and what is kept of it at the end."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.peers.audio import Samples
from tests.peers.denwa import Denwa

_NOTHING: Samples = np.zeros(0, np.int16)


@dataclass
class Played:
    """A call as it was kept, and what its caller noticed."""

    record: dict[str, Any]
    lines: list[dict[str, Any]]
    """The transcript's."""
    heard: Samples
    notes: Any = None

    @property
    def words(self) -> list[dict[str, Any]]:
        """The words, in order."""
        return [line for line in self.lines if "text" in line]

    @property
    def text(self) -> str:
        """All that the agent said."""
        return "".join(line["text"] for line in self.words).strip()

    @property
    def actions(self) -> list[tuple[str, str]]:
        """The actions that ran, and how that ended."""
        return [(each["name"], each["result"]) for each in self.record["actions"]]


class Line:
    """One number of the gateway's; nobody else calls it."""

    def __init__(self, gateway: Denwa, called: str) -> None:
        self.gateway = gateway
        self.called = called

    async def until_there_is_room(self) -> None:
        """Wait until the model takes calls: on a busy machine it says at times that it is too slow for more."""
        deadline = time.monotonic() + 60
        while (await self.gateway.health()).get("free_slots", {}).get("tiny", 0) < 1:
            assert time.monotonic() < deadline, "the model is too slow"
            await asyncio.sleep(0.2)

    async def call_id(self) -> str:
        """The id of the call to it, once there is one."""
        found: list[str] = []

        def begun() -> bool:
            lines = [each for each in self.gateway.log() if each.get("event") == "call.started"]
            found.extend(each["call"] for each in lines if each["called"] == self.called)
            return bool(found)

        await until(begun, 10, f"{self.called} is called")
        return found[0]

    def lines(self, call_id: str) -> list[dict[str, Any]]:
        """The transcript so far."""
        files = list((self.gateway.folder / "transcripts").glob(f"*{call_id}.jsonl"))
        return [json.loads(line) for line in files[0].read_text().splitlines()] if files else []

    async def said(self, text: str, within_s: float = 15.0) -> None:
        """Wait until the agent's words end so."""
        call_id = await self.call_id()
        await until(lambda: "".join(_texts(self.lines(call_id))).endswith(text), within_s, f"{self.called}: {text}")

    async def over(self, heard: Samples = _NOTHING, notes: Any = None, within_s: float = 40.0) -> Played:
        """Wait for the record of the call."""
        call_id, found = await self.call_id(), None
        deadline = time.monotonic() + within_s
        while (found := await self.gateway.get(f"/v1/records/{call_id}")) is None:
            assert time.monotonic() < deadline, f"{self.called}: no record\n{self.gateway.tail()}"
            await asyncio.sleep(0.2)
        return Played(found, self.lines(call_id), heard, notes)


def _texts(lines: list[dict[str, Any]]) -> list[str]:
    return [line["text"] for line in lines if "text" in line]


async def until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)
