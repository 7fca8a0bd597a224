"""Whether the two channels of a call's recording lie where the wire says.

A caller sends a click track to the echo. Three clocks know of each click: the wire (when its packet left the caller,
and when it came back, both in ``time.monotonic()``), the recording (where it is on the right, and where on the left),
and the API. From the API come the two things that the others cannot know:

- when the call's second 0 was, from what a running call tells of its ``now_s``. With it the left
  channel is compared with the wire: what was sent lies where it was sent.
- the frame trace: how long each frame took from the line back to the line, measured with the clock while it passed.
  That is the echo latency inside of the line, and with it the two channels are compared with each other.

What remains of the latency on the wire lies outside of the line: the network and the jitter buffer.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from numpy.typing import NDArray

from config.audio import FRAME_S
from tests.peers import clicks
from tests.peers.caller import Caller
from tests.peers.clicks import Times
from tests.peers.denwa import Denwa

_LOOK_S = 0.12
_TRACE_S = 20.0
_NEAR_S = 6.0
_AT_BLOCK_END_S = 0.06
"""A block of four ticks of 20 ms leaves with the last of them."""


@dataclass
class Watch:
    """What the API tells of a call while it runs."""

    call_id: str = ""
    looks: list[tuple[float, float]] = field(default_factory=list)
    """By the seconds of the call's clock: when its second 0 was at the latest, ``time.monotonic()``."""
    echoed_s: dict[int, float] = field(default_factory=dict)
    """By the number of a block: how much later than it was heard it was said."""

    def began(self, where: Times) -> Times:
        """When the call's second 0 was, as its clock is at the seconds in ``where``; some ms late.

        By what was seen within 6 s: a line that stands still, on a machine that does, has a clock that does.
        """
        at_s, began = np.array(self.looks).T
        near = [began[np.abs(at_s - each) <= _NEAR_S] for each in where]
        return np.array([each.min() if each.size else np.nan for each in near])


@asynccontextmanager
async def watched(gateway: Denwa, caller: Caller) -> AsyncIterator[Watch]:
    """Watch the caller's call while the context lasts."""
    watch = Watch()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http_port}", trust_env=False) as client:
        (started,) = [line for line in await gateway.wait_log("call.started") if line["sip_call_id"] == caller.call_id]
        watch.call_id = started["call"]
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(_look(client, watch), name=f"watch {watch.call_id}")
            try:
                yield watch
                await _trace(client, watch)
            finally:
                looking.cancel()


async def _look(client: httpx.AsyncClient, watch: Watch) -> None:
    traced_at = time.monotonic()
    with contextlib.suppress(httpx.HTTPError):
        while True:
            await asyncio.sleep(_LOOK_S * random.uniform(0.5, 1.5))
            now_s = (await client.get(f"/v1/calls/{watch.call_id}")).json()["now_s"]
            block = round(now_s / FRAME_S) - 1  # the last that the gateway has
            if block >= 0:
                watch.looks.append((now_s, time.monotonic() - _AT_BLOCK_END_S - block * FRAME_S))
            if time.monotonic() - traced_at > _TRACE_S:
                traced_at = time.monotonic()
                await _trace(client, watch)


async def _trace(client: httpx.AsyncClient, watch: Watch) -> None:
    answer: dict[str, Any] = (await client.get(f"/v1/calls/{watch.call_id}/frames")).json()
    for row in answer["frames"]:
        if row["total_ms"] is not None:
            watch.echoed_s[row["number"]] = FRAME_S + row["total_ms"] / 1000


@dataclass(frozen=True)
class Alignment:
    """For each click that was sent, in seconds; NaN where it is not there."""

    on_wire: NDArray[np.bool_]
    """Whether it came back to the caller at all: where the line runs dry or is late, audio is left out."""
    left: Times
    """When the left channel has it."""
    right: Times
    """When the right channel has it."""
    left_off: Times
    """How much later the left channel has it than the wire had it, going out."""
    echoed: Times
    """How much later it should: what its frame's trace tells."""
    wire: Times
    """How much later it came back to the caller than he sent it."""

    @property
    def offset(self) -> Times:
        """How much later the left channel has it than the right one."""
        return self.left - self.right

    @property
    def offset_off(self) -> Times:
        """By how much the channels are apart other than they should be."""
        return self.offset - self.echoed

    @property
    def outside(self) -> Times:
        """The part of the latency on the wire that lies outside of the line: network and jitter buffer."""
        return self.wire - self.offset

    @property
    def lost(self) -> int:
        """Clicks that the caller heard back, so that the line had them both ways, and that a channel has not."""
        return int((self.on_wire & np.isnan(self.offset)).sum())

    @property
    def not_echoed(self) -> int:
        """Clicks that did not come back."""
        return int((~self.on_wire).sum())


def align(caller: Caller, times: Times, recording: Path, watch: Watch, until_s: float) -> Alignment:
    """Find the clicks at ``times`` that the caller sent in the first ``until_s`` seconds."""
    audio, rate = soundfile.read(str(recording), dtype="int16")
    wire = clicks.on_the_wire(caller, times[times < until_s])
    sent = times[: wire.sent.size]
    left, right = (clicks.pair(sent, clicks.find(audio[:, channel], rate)) for channel in (0, 1))
    blocks = [-1 if np.isnan(at) else int(at / FRAME_S) for at in right]
    echoed = np.array([watch.echoed_s.get(block, np.nan) for block in blocks])
    return Alignment(
        on_wire=~np.isnan(wire.returned),
        left=left,
        right=right,
        left_off=left + watch.began(left) - wire.returned,
        echoed=echoed,
        wire=wire.returned - wire.sent,
    )
