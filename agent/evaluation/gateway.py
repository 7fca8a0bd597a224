"""A running gateway that is called: its address, and its API for what it kept of a call."""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx

from agent.evaluation.ear import Word
from telephony.errors import CallFailed
from telephony.sip.uri import SipUri

_RECORD_S: Final = 20.0
"""For so long a call's record is waited for."""
_REQUEST_S: Final = 10.0


@dataclass(frozen=True)
class Kept:
    """What the gateway kept of a call."""

    call: str
    """Its id."""
    words: list[Word]
    """The agent's that the caller was sent, on the gateway's clock."""
    fault: str = ""
    """Why there are no words."""


@dataclass(frozen=True)
class Gateway:
    """Whom to call, and where to ask."""

    to: SipUri
    api: str
    token: str | None = None

    @classmethod
    def parse(cls, to: str, api: str, token: str | None = None) -> Self:
        """From the command line's words; raises ``SipParseError``."""
        return cls(SipUri.parse(to), api.rstrip("/"), token)

    async def kept(self, caller: str) -> Kept:
        """What was kept of the one call of a caller that is over. The transcript is read as a file of this machine."""
        until = time.monotonic() + _RECORD_S
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with httpx.AsyncClient(base_url=self.api, timeout=_REQUEST_S, trust_env=False, headers=headers) as client:
            while True:
                records = await _records(client, caller)
                if records:
                    return await asyncio.to_thread(_read, records[0])
                if time.monotonic() > until:
                    return Kept("", [], f"{self.api} has no record of the call after {_RECORD_S:.0f} s")
                await asyncio.sleep(0.25)


async def _records(client: httpx.AsyncClient, caller: str) -> list[dict[str, Any]]:
    try:
        answer = await client.get("/v1/records", params={"caller": caller})
    except httpx.HTTPError as error:
        raise CallFailed(f"no transcript from {client.base_url}: {error or type(error).__name__}") from error
    if answer.status_code != 200:
        raise CallFailed(f"no transcript from {client.base_url}: {answer.status_code} {answer.text[:200]}")
    found: list[dict[str, Any]] = answer.json()
    return found


def _read(record: dict[str, Any]) -> Kept:
    call, path = str(record["id"]), record.get("transcript")
    if not path:
        return Kept(call, [], "the agent keeps no transcripts")
    try:
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        return Kept(call, [], f"{path}: {error}; the transcripts must be readable here")
    agent = [line for line in lines if line.get("speaker") == "agent" and "text" in line and not line.get("cut")]
    return Kept(call, [Word(float(line["t"]), str(line["text"]).strip()) for line in agent])
