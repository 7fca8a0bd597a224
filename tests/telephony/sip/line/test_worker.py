import asyncio
import os
import pwd
import signal
import sys
from pathlib import Path

import pytest

from telephony.sip.line.channel import ChannelSocket, channel_pair
from telephony.sip.line.messages import Open, Ready
from tests.peers.audio import tone
from tests.telephony.sip.line.direct import DirectPool, calling, until

ROOT = Path(__file__).parents[4]


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _core_limit(pid: int) -> list[str] | None:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except PermissionError:
        return None
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


def _udp_sockets() -> set[tuple[str, int]]:
    """Address (as the kernel writes it) and port of every UDP socket of this machine."""
    entries = [line.split()[1].split(":") for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return {(address, int(port, 16)) for address, port in entries}


async def test_a_worker_has_no_privileges_left_while_it_takes_calls() -> None:
    """Not root, no groups, no capabilities, none to gain, no core file."""
    async with DirectPool() as pool, calling(pool, tone(1_000, -10, 1.0, 8_000)) as (caller, _):
        await until(lambda: len(caller.heard) > 5)
        for worker in pool.workers:
            status = _status(worker.pid)
            assert status["NoNewPrivs"] == "1"
            assert _core_limit(worker.pid) in (["0", "0"], None)
            if os.geteuid() == 0:
                nobody = pwd.getpwnam("nobody")
                assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
                assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
                assert status["Groups"] == ""
                assert {int(status[key], 16) for key in ("CapPrm", "CapEff", "CapAmb")} == {0}


async def test_sip_is_heard_on_loopback_alone_and_rtp_in_its_range() -> None:
    """A worker's SIP socket is bound to 127.0.0.1, its RTP sockets inside the ports it was given."""
    async with DirectPool() as pool, calling(pool, tone(1_000, -10, 1.0, 8_000)) as (caller, line):
        assert ("0100007F", line.sip_address[1]) in _udp_sockets()
        assert 30_000 <= caller.rtp_peer[1] < 31_000
        assert caller.rtp_peer[1] % 2 == 0


async def _spawn() -> tuple[asyncio.subprocess.Process, ChannelSocket]:
    ours, theirs = channel_pair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "telephony.sip.line.worker",
            "--fd",
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
        )
    return process, ChannelSocket(ours)


async def _ready(channel: ChannelSocket) -> Ready:
    async with asyncio.timeout(10):
        while True:
            for message in channel.receive():
                if isinstance(message, Ready):
                    return message
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("opened", [False, True])
async def test_a_worker_ends_with_its_channel(opened: bool) -> None:
    """When the gateway is gone the worker leaves PJSIP in order and exits with 0."""
    process, channel = await _spawn()
    assert (await _ready(channel)).capacity >= 1
    if opened:
        channel.send(Open(8_000, ["PCMU"], "127.0.0.1", 31_000, 31_099))
    channel.close()
    async with asyncio.timeout(5):
        assert await process.wait() == 0


async def test_signals_to_the_group_are_left_to_the_gateway() -> None:
    """Ctrl-C and SIGTERM, which a terminal or an init may send to all, do not end a worker with calls."""
    process, channel = await _spawn()
    await _ready(channel)
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await process.wait()
    channel.close()
    async with asyncio.timeout(5):
        assert await process.wait() == 0


async def test_a_gateway_that_speaks_nonsense_ends_the_worker() -> None:
    """A worker does not guess: exit code 1."""
    process, channel = await _spawn()
    await _ready(channel)
    os.write(channel.fileno(), b"\x09nonsense")
    async with asyncio.timeout(5):
        assert await process.wait() == 1
    channel.close()


async def test_pjsip_answers_with_the_first_codec_of_the_offer() -> None:
    """What the choice of a bridge's rate relies on: the offer's order counts, not ours."""
    async with DirectPool() as pool, calling(pool, tone(1_000, -10, 1.0, 8_000), 8) as (caller, _):
        await until(lambda: pool.call_of(caller).codec == "PCMA")
        caller.reinvite(payload_type=0)
        await until(lambda: pool.call_of(caller).codec == "PCMU")
