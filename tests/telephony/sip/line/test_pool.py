import asyncio
import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest

from config.schema import PortRange, SipSettings
from telephony.call import CallState
from telephony.end_cause import EndCause
from telephony.errors import LineWorkerLost, LocalError, NoFreeLine
from telephony.sip.invitation import Invitation
from telephony.sip.line.call import SipCall
from telephony.sip.line.line_worker import LineWorker
from telephony.sip.line.pool import LinePool
from tests.peers.audio import tone
from tests.telephony.sip.line.direct import DirectPool, calling, confirmed, inviting, soon, until

TONE = tone(1_000, -10, 1.0, 8_000)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _offer(sip_call_id: str, *codecs: str) -> Invitation:
    return Invitation(sip_call_id, "sip:a@b", "a", "c", "sip:c@d", ("127.0.0.1", 5_060), "udp", codecs)


async def test_workers_for_the_limit_and_one_spare_and_none_left() -> None:
    """As many workers start as the limit needs, and one; all are gone when the pool is closed."""
    async with DirectPool(max_calls=5) as pool:
        capacity = pool.workers[0].capacity
        count = -(-5 // capacity) + 1
        assert len(pool.workers) == count
        assert pool.free_lines == count * capacity
        pids = [worker.pid for worker in pool.workers]
        await pool.place(_offer("opened", "PCMU"))
    assert not any(_alive(pid) for pid in pids)
    with pytest.raises(NoFreeLine):
        await pool.place(_offer("late", "PCMU"))


async def test_what_is_raised_inside_comes_out_as_it_is() -> None:
    """A fault in the gateway ends the pool and is not wrapped."""
    with pytest.raises(ZeroDivisionError):
        async with DirectPool():
            raise ZeroDivisionError


async def test_a_call_goes_to_a_bridge_of_its_rate() -> None:
    """G.711 and G722 calls share no worker while one of open rate is left; then any free line does."""
    async with DirectPool() as pool:
        narrow = await pool.place(_offer("1", "PCMA", "G722"))
        wide = await pool.place(_offer("2", "OPUS", "G722", "PCMU"))
        assert narrow.sip_address != wide.sip_address
        assert {worker.rate for worker in pool.workers} == {8_000, 16_000}
        assert (await pool.place(_offer("3"))).sip_address == narrow.sip_address  # delayed offer: our first codec
        lines = [narrow, wide, *[await pool.place(_offer(f"more {i}", "PCMU")) for i in range(pool.free_lines)]]
        with pytest.raises(NoFreeLine):
            await pool.place(_offer("one too many", "PCMU"))
        for line in lines:
            line.release()
            line.release()
        assert pool.free_lines == len(lines) - 1 + 1  # "3" keeps its line


async def test_a_call_id_has_one_line() -> None:
    """A second INVITE with the same Call-ID cannot take the first one's line."""
    async with DirectPool() as pool:
        await pool.place(_offer("twice", "PCMU"))
        with pytest.raises(NoFreeLine, match="Call-ID"):
            await pool.place(_offer("twice", "PCMU"))


async def test_the_call_after_a_full_worker_goes_elsewhere() -> None:
    """A worker is never given more calls than its library holds, and every one of them is heard."""
    async with DirectPool() as pool, contextlib.AsyncExitStack() as stack:
        capacity = pool.workers[0].capacity
        callers = [(await stack.enter_async_context(calling(pool, TONE)))[0] for _ in range(capacity + 1)]
        await until(lambda: all(confirmed(pool, caller) for caller in callers))
        assert sorted(len(worker.calls) for worker in pool.workers) == [1, capacity]
        await until(lambda: all(len(caller.heard) > 10 for caller in callers))


async def test_a_call_nobody_placed_is_refused() -> None:
    """An INVITE that reaches a worker after its line was released gets 503 and leaves nothing behind."""
    async with DirectPool() as pool:
        other = await pool.place(_offer("other", "PCMU"))
        async with inviting(pool) as (_, line, status):
            assert line.sip_address == other.sip_address
            line.release()
            assert await soon(status) == 503
        assert pool.calls == []
        other.release()
        assert all(worker.free_lines == worker.capacity for worker in pool.workers)


async def test_the_death_of_a_worker_ends_its_calls_alone() -> None:
    """After kill -9 its calls end, told within 200 ms, others keep their audio, and within 2 s all lines are back."""
    async with DirectPool(max_calls=8) as pool, contextlib.AsyncExitStack() as stack:
        capacity = pool.workers[0].capacity
        callers = [(await stack.enter_async_context(calling(pool, TONE)))[0] for _ in range(2 * capacity)]
        await until(lambda: all(confirmed(pool, caller) for caller in callers))
        victim = pool.workers[0]
        doomed = {call.invitation.sip_call_id: call for call in victim.calls}
        survivors = [caller for caller in callers if caller.call_id not in doomed]
        killed_at = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        await until(lambda: pool.lost)
        assert time.monotonic() - killed_at < 0.2
        assert set(pool.lost) == set(doomed)
        for call in doomed.values():
            assert await soon(call.wait_closed()) == EndCause.line_lost()
        await until(lambda: sum(w.free_lines for w in pool.workers) == 2 * capacity, 2 - (time.monotonic() - killed_at))
        await until(lambda: all(caller.heard[-1].at > killed_at + 0.5 for caller in survivors))
        for caller in survivors:
            times = [packet.at for packet in caller.heard if packet.at > killed_at - 0.2]
            assert max(np.diff(times)) < 0.1
        async with calling(pool, TONE) as (late, _):
            await until(lambda: len(late.heard) > 5)
        for caller in callers:
            if caller.call_id in doomed:
                caller.ended.set()  # what the edge's BYE would have told it


async def test_a_worker_that_hangs_is_replaced() -> None:
    """No heartbeat for a second: killed, its calls lost, another one in its place."""
    async with DirectPool() as pool:
        line = await pool.place(_offer("stuck", "PCMU"))
        victim = next(worker for worker in pool.workers if worker.sip_port == line.sip_address[1])
        os.kill(victim.pid, signal.SIGSTOP)
        await until(lambda: pool.lost == ["stuck"], 2)
        await until(lambda: not _alive(victim.pid), 1)
        await until(lambda: all(worker.free_lines == worker.capacity for worker in pool.workers), 2)


async def test_closing_the_pool_says_bye() -> None:
    """The peers of running calls get a BYE, and the calls end."""
    async with contextlib.AsyncExitStack() as stack:
        pool = DirectPool()
        await pool.__aenter__()
        caller, _ = await stack.enter_async_context(calling(pool, TONE))
        await until(lambda: confirmed(pool, caller))
        await soon(pool.__aexit__(), 5)
        assert caller.ended.is_set()
        assert pool.calls[0].state is CallState.DISCONNECTED


async def test_short_calls_leave_no_slot_and_no_descriptor() -> None:
    """Sixty short calls, some refused: every line is free afterwards and the worker's descriptors are as before."""
    refuse = [False]

    def arrive(call: SipCall) -> None:
        if refuse[0]:
            call.hangup(EndCause.busy("test"))
        else:
            call.answer()

    async with DirectPool(arrive) as pool:
        descriptors: list[int] = []
        for number in range(20):
            refuse[0] = False
            async with calling(pool, TONE), calling(pool, TONE):
                pass
            refuse[0] = True
            async with inviting(pool) as (_, _, status):
                assert await soon(status) == 503
            await until(lambda: all(worker.free_lines == worker.capacity for worker in pool.workers))
            if number in (4, 19):
                busy = next(worker for worker in pool.workers if worker.rate)
                descriptors.append(len(os.listdir(f"/proc/{busy.pid}/fd")))
        await until(lambda: all(call.state is CallState.DISCONNECTED for call in pool.calls))
        assert len(pool.calls) == 60
        assert descriptors[0] == descriptors[1]


async def test_too_few_rtp_ports_are_refused_at_start() -> None:
    """A range that cannot hold the calls is told at once, not at the last call."""
    settings = SipSettings(max_calls=12, rtp_ports=PortRange(first=30_000, last=30_020))
    with pytest.raises(LocalError, match="rtp_ports"):
        async with LinePool(settings, lambda call: None, lambda lost: None):
            pass


async def test_an_idle_worker_makes_room_for_another_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every worker is rated, one that has been idle is replaced by one whose rate is open."""
    monkeypatch.setattr("telephony.sip.line.pool._IDLE_S", 0.2)
    async with DirectPool() as pool:
        lines = [await pool.place(_offer("1", "PCMU")), await pool.place(_offer("2", "G722"))]
        lines[1].release()
        await until(lambda: [worker.rate for worker in pool.workers] == [8_000, 0])
        await until(lambda: pool.free_lines == 2 * pool.workers[0].capacity - 1)
        assert pool.lost == []


async def test_a_worker_that_cannot_be_spawned_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No interpreter, no worker: the pool says so instead of waiting for ever."""
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(LineWorkerLost):
        async with DirectPool():
            pass


def test_a_worker_that_never_ran_has_no_line() -> None:
    """Constructing is free: no process, no line."""
    worker = LineWorker(SipSettings(), lambda call: None, lambda lost: None)
    assert (worker.pid, worker.free_lines, worker.calls) == (0, 0, [])


def test_it_works_on_uvloop() -> None:
    """The channel's readers, the subprocesses and a call work on the loop the gateway runs."""
    uvloop = pytest.importorskip("uvloop")

    async def converse() -> int:
        async with DirectPool() as pool, calling(pool, TONE) as (caller, _):
            await until(lambda: len(caller.heard) > 10)
            return len(caller.heard)

    heard: list[int] = []

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            heard.append(runner.run(converse()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert heard
    assert heard[0] > 10
