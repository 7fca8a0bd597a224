"""Transfers, redirections and keys, on a real line worker."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from telephony.call import CallState
from telephony.end_cause import EndCause
from telephony.sip.line.call import SipCall
from telephony.transfer import Transfer
from tests.peers.audio import tone
from tests.telephony.sip.line.direct import DirectCaller, DirectPool, calling, invitation, inviting, soon, until

TARGET = "sip:desk@192.0.2.9:5070;user=phone"
TONE = tone(1_000, -10, 1.0, 8_000)


@asynccontextmanager
async def _talk() -> AsyncIterator[tuple[DirectPool, DirectCaller, SipCall]]:
    """A call that is up and echoes."""
    async with DirectPool() as pool, calling(pool, TONE) as (caller, _):
        await until(lambda: len(caller.heard) > 3)
        yield pool, caller, pool.call_of(caller)


def _begin(call: SipCall, within_s: float = 3.0) -> "asyncio.Task[Transfer]":
    return asyncio.create_task(call.transfer(TARGET, within_s=within_s), name="transfer")


async def _goes_on(caller: DirectCaller, call: SipCall) -> None:
    """The call is up, and the caller hears himself."""
    heard = len(caller.heard)
    await until(lambda: len(caller.heard) > heard + 10)
    assert call.state is CallState.CONFIRMED
    assert not caller.ended.is_set()


@pytest.mark.parametrize("last_state", ["terminated;reason=noresource", "active"])
async def test_a_transfer_that_is_answered_ends_the_call(last_state: str) -> None:
    """REFER names the target; when the peer tells of its answer we send BYE, and the line is free."""
    async with _talk() as (pool, caller, call):
        task = _begin(call)
        await until(lambda: caller.refers)
        assert f"Refer-To: <{TARGET}>\r\n" in caller.refers[0]
        caller.notify("100 Trying")
        caller.notify("180 Ringing")
        caller.notify("200 OK", last_state)
        assert await soon(task) == Transfer(True, 200, "OK")
        assert await soon(call.wait_closed()) == EndCause.transferred()
        await soon(caller.ended.wait())
        await until(lambda: pool.free_lines == 2 * pool.workers[0].capacity)


async def test_a_transfer_that_is_refused_leaves_the_call_as_it_was() -> None:
    """The peer does not want to: its status is told, and the conversation goes on."""
    async with _talk() as (_, caller, call):
        caller.refer_answer = "603 Decline"
        assert await soon(_begin(call)) == Transfer(False, 603, "Decline")
        await _goes_on(caller, call)


async def test_a_target_that_is_busy_leaves_the_call_as_it_was() -> None:
    """The target does not want to: its status is told, the conversation goes on, and another one may be tried."""
    async with _talk() as (_, caller, call):
        task = _begin(call)
        await until(lambda: caller.refers)
        caller.notify("100 Trying")
        caller.notify("486 Busy Here", "terminated;reason=noresource")
        assert await soon(task) == Transfer(False, 486, "Busy Here")
        await _goes_on(caller, call)
        again = _begin(call)
        await until(lambda: len(caller.refers) == 2)
        caller.notify("200 OK", "terminated;reason=noresource")
        assert await soon(again) == Transfer(True, 200, "OK")
        await soon(call.wait_closed())


async def test_a_transfer_without_an_outcome_stays_open() -> None:
    """Out of time the call goes on, and a further transfer waits for the peer's word: it may still be an answer."""
    async with _talk() as (_, caller, call):
        assert await soon(_begin(call, within_s=0.3)) == Transfer(False, 408, "no outcome in time")
        await _goes_on(caller, call)
        assert (await soon(_begin(call))).status == 491
        assert len(caller.refers) == 1
        caller.notify("200 OK", "terminated;reason=noresource")
        assert await soon(call.wait_closed()) == EndCause.transferred()


async def test_one_transfer_at_a_time() -> None:
    """A second one is not begun while the first is open."""
    async with _talk() as (_, caller, call):
        task = _begin(call)
        await until(lambda: caller.refers)
        assert (await soon(_begin(call))).status == 491
        caller.notify("404 Not Found", "terminated;reason=noresource")
        assert (await soon(task)).status == 404


async def test_a_call_that_ends_meanwhile_ends_its_transfer() -> None:
    """The caller hangs up: 487; and before the answer or after the end there is nobody to transfer."""
    async with _talk() as (_, caller, call):
        task = _begin(call)
        await until(lambda: caller.refers)
        caller.bye()
        assert (await soon(task)).status == 487
        assert await soon(call.wait_closed()) == EndCause.peer_hung_up()
        assert (await soon(_begin(call))).status == 487
        caller.ended.set()


async def test_a_cancelled_transfer_leaves_the_call_as_it_was() -> None:
    """Whoever waits for a transfer may be cancelled; a late answer still ends the call."""
    async with _talk() as (_, caller, call):
        task = _begin(call)
        await until(lambda: caller.refers)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await _goes_on(caller, call)
        caller.notify("200 OK", "terminated;reason=noresource")
        await soon(call.wait_closed())


@pytest.mark.parametrize("target", ["tel:110", "desk", "sip:", "sip:a@b?Replaces=c", "sip:a@b;method=BYE", "sip:a@b>"])
async def test_a_target_that_is_no_sip_uri_is_told_at_once(target: str) -> None:
    """Nothing is sent for a target that no phone could call."""
    async with DirectPool() as pool, calling(pool, TONE) as (caller, _):
        await until(lambda: len(caller.heard) > 3)
        with pytest.raises(ValueError, match=r"URI|target"):
            await pool.call_of(caller).transfer(target)


async def test_a_stray_notify_changes_nothing() -> None:
    """A NOTIFY nobody subscribed to is refused, and the call goes on; what to say to it is the edge's matter."""
    async with _talk() as (_, caller, call):
        caller.notify("200 OK", "terminated;reason=noresource")
        await until(lambda: caller.statuses[-1] >= 400)
        await _goes_on(caller, call)


async def test_transfers_leave_no_slot_and_no_descriptor() -> None:
    """Call after call is transferred, or hung up in the middle of it: the worker lives, and every line is free."""
    async with DirectPool() as pool:
        pids = {worker.pid for worker in pool.workers}
        descriptors: list[int] = []
        for number in range(18):
            async with calling(pool, TONE) as (caller, _):
                await until(lambda caller=caller: len(caller.heard) > 3)
                call = pool.call_of(caller)
                task = _begin(call)
                await until(lambda caller=caller: caller.refers)
                if number % 3 == 0:
                    caller.notify("200 OK", "terminated")
                    await soon(task)
                elif number % 3 == 1:
                    caller.notify("100 Trying")
                    caller.bye()
                    caller.ended.set()
                else:
                    caller.notify("100 Trying")
                    call.hangup(EndCause.hung_up("tired"))
                await soon(call.wait_closed())
                await soon(task)
            await until(lambda: all(worker.free_lines == worker.capacity for worker in pool.workers))
            if number in (3, 17):
                busy = next(worker for worker in pool.workers if worker.rate)
                descriptors.append(len(os.listdir(f"/proc/{busy.pid}/fd")))
        assert descriptors[0] == descriptors[1]
        assert {worker.pid for worker in pool.workers} == pids


async def test_a_call_may_be_redirected_before_its_answer() -> None:
    """Hanging up with a redirection sends 302 and where to call instead."""
    cause = EndCause.redirected(TARGET)
    async with (
        DirectPool(lambda call: call.hangup(cause) and None) as pool,
        inviting(pool) as (caller, _, status),
    ):
        assert await soon(status) == 302
        assert f"Contact: <{TARGET}>\r\n".encode() in caller.last_response
        assert await soon(pool.calls[0].wait_closed()) == cause


def _keys(caller: DirectCaller) -> str:
    """The keys that came as RFC 4733 events."""
    keys = ""
    last = None
    for packet in caller.heard:
        if packet.payload_type == 101 and packet.timestamp != last:
            keys += "0123456789*#ABCD"[packet.payload[0]]
            last = packet.timestamp
    return keys


async def test_keys_are_pressed_at_the_callers_end() -> None:
    """Each key leaves as an event of its own (RFC 4733), in order, and the sound goes on."""
    async with _talk() as (_, caller, call):
        call.send_dtmf("159")
        call.send_dtmf("A*#0")
        await until(lambda: _keys(caller) == "159A*#0", 6)
        await _goes_on(caller, call)


@pytest.mark.parametrize("digits", ["", "12x", "1 2", "a", "1" * 32, "\uff11"])
async def test_what_is_no_key_is_refused(digits: str) -> None:
    """Only keys of a telephone can be pressed, and the complaint does not repeat them."""
    with pytest.raises(ValueError, match=r"^1 to 31 of 0-9, A-D, \* and # can be dialled$"):
        SipCall(invitation("id"), 7, 8_000, lambda message: None).send_dtmf(digits)


async def test_keys_by_info_are_heard() -> None:
    """A peer that presses keys by INFO (application/dtmf-relay) is understood like one that sends events."""
    async with _talk() as (_, caller, call):
        pressed: list[str] = []
        call.on_dtmf = pressed.append
        for key in "4#":
            caller.info(key)
            await until(lambda: caller.statuses[-1] == 200)
        await until(lambda: pressed == ["4", "#"])
