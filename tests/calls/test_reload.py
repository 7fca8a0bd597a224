"""The configuration is read again while calls run: new calls get the new one, running calls notice nothing."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.peers import audio, rtp
from tests.peers.caller import Caller, call
from tests.peers.denwa import Denwa, denwa
from tests.peers.rtp_capture import capture, streams, to_port

pytestmark = pytest.mark.peer("tcpdump")

CALLS = 12
RELOADS = 20
EVERY_S = 0.5
NOISE = audio.noise(-20, 5, 8_000, seed=9)


async def test_twenty_reloads_under_load(tmp_path: Path) -> None:
    """Every third one is broken and refused; no call has a gap, and each record names the call's own generation."""
    expected: dict[str, int] = {}
    wire = tmp_path / "rtp.pcap"
    async with denwa(tmp_path, sip={"max_calls": 2 * CALLS}) as gateway:
        right = (tmp_path / "denwa.yaml").read_text()
        async with capture(wire, *gateway.rtp_ports), AsyncExitStack() as calls:
            running: list[Caller] = []
            generation = 1
            for number in range(RELOADS):
                if len(running) < CALLS:
                    running.append(await calls.enter_async_context(call(gateway.server, "echo", NOISE)))
                    expected[running[-1].call_id] = generation
                await asyncio.sleep(EVERY_S)
                broken = number % 3 == 2
                (tmp_path / "denwa.yaml").write_text(_changed(right, number, broken))
                generation += not broken
                await _reload(gateway, number, generation, accepted=not broken)
            await asyncio.sleep(1)
            ports = [caller.rtp_port for caller in running]
        records = await gateway.wait_records(CALLS)
        health = await gateway.health()

    assert health["generation"] == generation == 1 + RELOADS - RELOADS // 3
    assert {record["sip_call_id"]: record["generation"] for record in records} == expected
    assert len(set(expected.values())) >= 8, "calls of many generations ran side by side"
    found = streams(wire)
    for port in ports:
        spoken = to_port(found, port)[25:]  # without the echo's first half second
        assert len(spoken) > 50
        assert np.percentile(rtp.gaps(spoken), 99) < 0.04
        assert rtp.longest_silence(spoken) <= 2


def _changed(text: str, number: int, broken: bool) -> str:
    """The configuration with another agent in it, or with a mistake."""
    values: dict[str, Any] = yaml.safe_load(text)
    values["agents"][f"new-{number}"] = {"model": "eco" if broken else "echo", "greeting": f"hello {number}"}
    return yaml.safe_dump(values)


async def _reload(gateway: Denwa, number: int, generation: int, *, accepted: bool) -> None:
    """Reload by the API and by SIGHUP in turn; what is wrong is told by both, with its line."""
    if number % 2:
        gateway.process.send_signal(signal.SIGHUP)
        if accepted:
            await gateway.wait_log("configuration.reloaded", count=generation - 1)
        else:
            await gateway.wait_log("configuration.refused", count=(number + 1) // 3)
        return
    status, answer = await gateway.post("/v1/reload")
    assert (status, answer["accepted"], answer["generation"]) == (200 if accepted else 422, accepted, generation)
    if not accepted:
        (fault,) = answer["findings"]
        assert "there is no model 'eco'; did you mean 'echo'?" in fault
        assert "denwa.yaml:" in fault
