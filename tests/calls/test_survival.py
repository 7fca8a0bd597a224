"""What is left when a process dies, or is told to stop."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.peers import audio, proc, rtp
from tests.peers.caller import Caller, CallRefused, call
from tests.peers.denwa import Denwa, denwa

NOISE = audio.noise(-20, 5.0, 8_000, seed=3)
GAP_S = 0.1
"""Packets further apart than this are a gap, as is half of it in silence: 20 ms is the rule, but machines are busy."""


async def _until(condition: object, within_s: float, what: str) -> None:
    """Wait until ``condition()`` holds."""
    assert callable(condition)
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)


async def _callers(stack: contextlib.AsyncExitStack, gateway: Denwa, count: int) -> list[Caller]:
    """So many calls to the echo, each of which hears itself."""
    callers = [await stack.enter_async_context(call(gateway.server, "echo", NOISE)) for _ in range(count)]
    since = time.monotonic()
    await _until(lambda: all(each.hears_since(since) for each in callers), 5, "every caller hears himself")
    return callers


def _gap(caller: Caller, since: float) -> float:
    return float(rtp.gaps([packet for packet in caller.heard if packet.at >= since]).max())


async def test_a_line_worker_is_killed(tmp_path: Path) -> None:
    """Its calls end with BYE within 2 s, the others notice nothing, and it is replaced within 2 s."""
    async with denwa(tmp_path) as gateway, contextlib.AsyncExitStack() as stack:
        workers = gateway.line_workers()
        callers = await _callers(stack, gateway, 8)
        ports = {pid: proc.udp_ports(pid) for pid in workers}
        victim = max(workers, key=lambda pid: sum(_port(each) in ports[pid] for each in callers))
        lost = [each for each in callers if _port(each) in ports[victim]]
        kept = [each for each in callers if each not in lost]
        assert lost
        assert kept

        killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(2):
            await asyncio.gather(*[each.ended.wait() for each in lost])
        await _until(lambda: len(gateway.line_workers()) == len(workers), 2, "the worker is replaced")
        async with call(gateway.server, "echo", NOISE) as another:
            since = time.monotonic()
            await _until(lambda: another.hears_since(since), 3, "the next call is answered and heard")

        await asyncio.sleep(0.5)
        for each in kept:
            assert not each.ended.is_set()
            assert _gap(each, killed_at - 0.1) < GAP_S
            assert rtp.longest_silence([packet for packet in each.heard if packet.at > killed_at]) <= GAP_S / 2 / 0.02
        ended = await gateway.wait_log("call.ended", len(lost))
        assert [line["reason"] for line in ended[: len(lost)]] == ["line worker lost"] * len(lost)


async def test_the_model_worker_is_killed(tmp_path: Path) -> None:
    """No call drops: callers hear silence, and themselves again within 10 s."""
    async with denwa(tmp_path) as gateway, contextlib.AsyncExitStack() as stack:
        callers = await _callers(stack, gateway, 4)
        (worker,) = gateway.model_workers()
        killed_at = time.monotonic()
        os.kill(worker, signal.SIGKILL)
        await asyncio.sleep(0.3)  # what was on its way is heard out
        dead_at = time.monotonic()
        await _until(
            lambda: all(each.hears_since(dead_at) for each in callers),
            10 - (dead_at - killed_at),
            "every session is reopened",
        )
        for each in callers:
            assert not each.ended.is_set()
            assert _gap(each, killed_at) < GAP_S, "the line goes on while the model is away"
        assert len(gateway.model_workers()) == 1


async def test_a_conversation_with_moshi_survives_its_worker(tmp_path: Path) -> None:
    """After ``kill -9`` of the model worker the next one takes the conversation up at its step, and speaks on."""
    models = {"tiny": {"kind": "moshi", "checkpoint": "random:tiny", "slots": 2}}
    agents = {"anna": {"model": "tiny", "greeting": "Good morning."}}
    async with denwa(tmp_path, models=models, agents=agents) as gateway, contextlib.AsyncExitStack() as stack:
        caller = await stack.enter_async_context(call(gateway.server, "anna", NOISE))
        since = time.monotonic()
        await _until(lambda: caller.hears_since(since), 5, "the agent speaks")
        await asyncio.sleep(1.5)
        (worker,) = [pid for pid in gateway.model_workers() if "--model tiny" in proc.command(pid)]
        os.kill(worker, signal.SIGKILL)
        (resumed,) = await gateway.wait_log("session.resumed", within_s=20)
        assert resumed["step"] >= 10
        since = time.monotonic()
        await _until(lambda: caller.hears_since(since), 5, "the agent speaks on")
        assert not caller.ended.is_set()
        opened = [line["event"] for line in gateway.log() if line["event"].startswith("session.opened id=1")]
        assert [int(event.rsplit("=", 1)[1]) for event in opened] == [0, resumed["step"]]


async def test_sigterm_lets_calls_finish_for_a_while(tmp_path: Path) -> None:
    """After SIGTERM new calls get 503, running ones may end by themselves until the drain is over, then get BYE."""
    drain_s = 3.0
    async with denwa(tmp_path, sip={"drain_s": drain_s}) as gateway:
        async with contextlib.AsyncExitStack() as stack:
            leaving, staying = await _callers(stack, gateway, 2)
            running = gateway.processes()
            gateway.process.send_signal(signal.SIGTERM)
            told_at = time.monotonic()
            await gateway.wait_log("gateway.draining")
            with pytest.raises(CallRefused) as refused:
                async with call(gateway.server, "echo", NOISE):
                    pass
            assert refused.value.status == 503
            await asyncio.sleep(1)
            await leaving.hangup()
            assert not leaving.ended.is_set()
            assert not staying.ended.is_set()
            assert staying.hears_since(time.monotonic() - 0.5), "the call that stays is still served"
            async with asyncio.timeout(drain_s + 2):
                await staying.ended.wait()
            assert staying.ended_at is not None
            assert staying.ended_at - told_at >= drain_s - 0.2
        await gateway.wait_stopped(running)


def _port(caller: Caller) -> int:
    assert caller.rtp_peer is not None
    return caller.rtp_peer[1]
