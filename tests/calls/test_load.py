"""Twelve calls at once, and a thirteenth that must not be felt."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.peers import audio, rtp
from tests.peers.caller import CallRefused, call
from tests.peers.denwa import denwa
from tests.peers.rtp_capture import capture, streams
from tests.peers.sipp import sipp

pytestmark = [pytest.mark.peer("sipp"), pytest.mark.peer("tcpdump")]

CALLS = 12
TALK_S = 6.0


async def test_the_thirteenth_call_is_refused_and_the_twelve_are_unharmed(tmp_path: Path) -> None:
    """At the limit an INVITE gets 503 with Retry-After within 200 ms, and nobody's audio notices."""
    speech = audio.noise(-20, TALK_S + 2, 8_000, seed=5)
    wire = tmp_path / "rtp.pcap"
    async with denwa(tmp_path, sip={"max_calls": CALLS}) as gateway:
        async with capture(wire, *gateway.rtp_ports), asyncio.TaskGroup() as tasks:
            twelve = tasks.create_task(
                sipp("talk", gateway.sip_port, calls=CALLS, rate=20, audio=speech, talk_s=TALK_S, trace=False),
                name="sipp",
            )
            await gateway.wait_health(within_s=5, calls=CALLS)
            await asyncio.sleep(2)
            with pytest.raises(CallRefused) as refused:
                async with call(gateway.server, "echo", speech):
                    pass
            refused_at = time.time()
        assert twelve.result().successful == CALLS
        async with call(gateway.server, "echo", speech):  # and there is room again
            pass

    assert refused.value.status == 503
    assert int(refused.value.headers["retry-after"]) >= 1
    assert refused.value.after_s <= 0.2

    first, last = gateway.rtp_ports
    returned = [packets for (source, _), packets in streams(wire).items() if first <= source <= last]
    assert len(returned) == CALLS
    for packets in returned:
        around = [packet for packet in packets if abs(packet.at - refused_at) < 1.0]
        assert len(around) >= 95, "a stream has stopped"
        assert rtp.gaps(around).max() < 0.08
        assert rtp.longest_silence(around) <= 1  # a single one is a busy machine's, not the refused call's
