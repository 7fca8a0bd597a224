import asyncio

import numpy as np
import pytest
import structlog

from telephony.call import CallState, LineTime, Said
from telephony.end_cause import EndCause, EndResult
from telephony.errors import ChannelError
from telephony.sip.line.call import SipCall
from telephony.sip.line.messages import Answer, Audio, Dtmf, Hangup, Message, Ring, State
from tests.peers import rtp
from tests.peers.audio import cleanest_tone, fit_tone, tone
from tests.telephony.sip.line.direct import RATES, DirectPool, calling, confirmed, invitation, inviting, soon, until

SETTLE_S = 0.6


def _call(rate: int = 8_000) -> tuple[SipCall, list[Message]]:
    sent: list[Message] = []
    return SipCall(invitation("id"), 7, rate, sent.append), sent


def _state(state: str, status: int = 200, answered: bool = True, by_us: bool = False) -> State:
    return State(7, state, status, "reason", answered, by_us)


async def test_a_calls_life_goes_one_way() -> None:
    """Incoming, early, confirmed, disconnected; a late message changes nothing."""
    call, sent = _call()
    call.ring()
    call.receive(_state("early", 180, answered=False))
    call.answer()
    call.receive(_state("confirmed"))
    assert await soon(call.wait_confirmed()) is True
    call.receive(_state("early", 180))
    assert call.state is CallState.CONFIRMED
    call.receive(_state("disconnected"))
    assert await soon(call.wait_closed()) == EndCause.peer_hung_up()
    assert sent == [Ring(7), Answer(7)]


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (EndCause.busy("full"), 503),
        (EndCause.server_error("broken"), 500),
        (EndCause.hung_up("done"), 480),
        (EndCause.redirected("sip:desk@192.0.2.1"), 302),
        (EndCause(EndResult.REJECTED, "nowhere to go", 302), 480),
    ],
)
async def test_the_first_cause_stays(cause: EndCause, status: int) -> None:
    """Hanging up twice sends one request and keeps the first cause, whatever the peer does then."""
    call, sent = _call()
    assert call.hangup(cause) is cause
    assert call.hangup(EndCause.line_lost()) is cause
    call.receive(_state("disconnected", status, answered=False, by_us=True))
    assert await soon(call.wait_closed()) is cause
    assert await call.wait_confirmed() is False
    assert sent == [Hangup(7, status, cause.contact)]


@pytest.mark.parametrize(
    ("message", "result"),
    [
        (_state("disconnected", 487, answered=False), EndResult.CANCELLED),
        (_state("disconnected", 408), EndResult.FAILED),
        (_state("disconnected", 200), EndResult.COMPLETED),
    ],
)
async def test_how_the_peer_ended_it_is_a_cause(message: State, result: EndResult) -> None:
    """CANCEL, a lost ACK and BYE are told apart."""
    call, _ = _call()
    call.receive(message)
    cause = await soon(call.wait_closed())
    assert isinstance(cause, EndCause)
    assert cause.result is result


async def test_audio_flows_only_while_confirmed() -> None:
    """Neither early nor after hanging up are frames heard or played."""
    call, sent = _call()
    frames: list[tuple[int, float]] = []
    call.on_frame = lambda frame, time: frames.append((frame.size, time.captured_at))
    silence = np.zeros(1_920, np.int16)
    block = Audio(7, 1.5, bytes(1_280), 0)
    call.receive(block)
    call.play(silence)
    call.receive(_state("confirmed"))
    call.receive(block)
    call.play(silence)
    call.hangup(EndCause.hung_up("done"))
    call.receive(block)
    call.play(silence)
    assert frames == [(1_920, 1.5)]
    assert [len(message.pcm) for message in sent if isinstance(message, Audio)] == [1_280]


@pytest.mark.parametrize(("rate", "step"), [(8_000, 640), (16_000, 1_280)])
async def test_what_is_played_has_a_position(rate: int, step: int) -> None:
    """Frames are numbered by their samples at 24 kHz; what was dropped has none, and the line is told its own."""
    call, sent = _call(rate)
    silence = np.zeros(1_920, np.int16)
    assert call.play(silence) == -1
    call.receive(_state("confirmed"))
    assert [call.play(silence) for _ in range(3)] == [0, 1_920, 3_840]
    call.hangup(EndCause.hung_up("done"))
    assert call.play(silence) == -1
    assert [message.number for message in sent if isinstance(message, Audio)] == [0, step, 2 * step]


@pytest.mark.parametrize(
    ("rate", "said", "told"),
    [(8_000, Said(2, 641, 638), Said(6, 1_923, 1_914)), (16_000, Said(2, 642, 1_278), Said(3, 963, 1_917))],
)
async def test_the_lines_clock_is_told_in_the_models_samples(rate: int, said: Said, told: Said) -> None:
    """Number and time pass, the runs are converted exactly."""
    call, _ = _call(rate)
    times: list[LineTime] = []
    call.on_frame = lambda frame, time: times.append(time)
    call.receive(_state("confirmed"))
    call.receive(Audio(7, 1.5, bytes(rate * 2 * 8 // 100), 41, (said,)))
    assert times == [LineTime(41, 1.5, (told,))]


async def test_keys_are_told_and_not_logged() -> None:
    """Each key reaches the agent, even before the ACK; none is in the log, for it may be of a card's number."""
    call, _ = _call()
    pressed: list[str] = []
    call.on_dtmf = pressed.append
    with structlog.testing.capture_logs() as logs:
        for digit in ("4", "A", "*", "#", "44", "", "x", "e"):
            call.receive(Dtmf(7, digit))
    assert pressed == ["4", "A", "*", "#"]
    assert {tuple(line) for line in logs} == {("call", "event", "log_level")}
    assert {line["log_level"] for line in logs} == {"debug"}
    call.receive(_state("disconnected"))
    call.receive(Dtmf(7, "5"))
    assert pressed == ["4", "A", "*", "#"]


async def test_a_block_of_another_length_is_refused() -> None:
    """A worker that breaks the line's clock is not trusted any further."""
    call, _ = _call()
    call.on_frame = lambda frame, time: None
    call.receive(_state("confirmed"))
    with pytest.raises(ChannelError, match="block"):
        call.receive(Audio(7, 1.5, bytes(640), 0))


async def test_a_state_that_is_none_is_refused() -> None:
    """A worker that invents states is not trusted any further."""
    call, _ = _call()
    with pytest.raises(ChannelError, match="limbo"):
        call.receive(_state("limbo"))


async def test_a_lost_line_ends_the_call() -> None:
    """The death of the worker is the cause, unless there was one."""
    call, _ = _call()
    call.lose()
    assert await soon(call.wait_closed()) == EndCause.line_lost()


@pytest.mark.parametrize(("payload_type", "least_snr"), [(0, 35.0), (8, 35.0), (9, 40.0)])
async def test_a_tone_comes_back_as_it_was(payload_type: int, least_snr: float) -> None:
    """1 kHz at -10 dBFS through worker, gateway and back: within 0.3 dB, and no noise but the codec's."""
    rate = RATES[payload_type]
    async with DirectPool() as pool:
        async with calling(pool, tone(1_000, -10, 4.0, rate), payload_type) as (caller, _):
            await until(lambda: len(caller.heard) > 105, 5)
            call = pool.call_of(caller)
        await soon(call.wait_closed())
        heard = caller.decoded() if payload_type == 9 else rtp.samples(caller.heard)
        fit = cleanest_tone(heard[round(SETTLE_S * rate) : 2 * rate], rate, 1_000)
        assert abs(fit.level + 10) < 0.3
        assert fit.snr > least_snr
        assert call.stats is not None
        assert call.stats.received > 90
        assert call.stats.lost == 0


async def test_frames_keep_coming_when_rtp_stops() -> None:
    """The line's own clock feeds the model: 12.5 frames per second, silence where nothing comes."""
    frames: list[tuple[float, int]] = []

    def listen(call: SipCall) -> None:
        call.on_frame = lambda frame, time: frames.append((time.captured_at, int(np.abs(frame).max())))
        call.answer()

    async with DirectPool(listen) as pool, calling(pool, tone(1_000, -10, 1.0, 8_000)):
        await until(lambda: len(frames) > 10)
        assert frames[-1][1] > 5_000
        speaking = next(task for task in asyncio.all_tasks() if task.get_name() == "speak")
        speaking.cancel()
        await asyncio.wait([speaking])
        stopped = len(frames)
        await until(lambda: len(frames) > stopped + 12)
        assert frames[-1][1] < 50
        gaps = np.diff([at for at, _ in frames])
        assert abs(gaps.mean() - 0.08) < 0.002
        assert gaps.max() < 0.12


async def test_a_call_on_hold_goes_on_in_silence() -> None:
    """A peer that offers sendonly hears nothing and is still listened to; it hears us again when it resumes."""
    frames: list[float] = []

    def listen(call: SipCall) -> None:
        def hear(frame: np.ndarray, time: LineTime) -> None:
            frames.append(time.captured_at)
            call.play(frame)

        call.on_frame = hear
        call.answer()

    async with DirectPool(listen) as pool, calling(pool, tone(1_000, -10, 1.0, 8_000)) as (caller, _):
        await until(lambda: len(caller.heard) > 25)
        call = pool.call_of(caller)
        for direction in ("sendonly", "inactive"):
            caller.reinvite(direction)
            await until(lambda: call.held)
            heard, listened = len(caller.heard), len(frames)
            await until(lambda since=listened: len(frames) > since + 8)
            assert len(caller.heard) - heard <= 3
            caller.reinvite("sendrecv")
            await until(lambda: not call.held)
            heard = len(caller.heard)
            await until(lambda since=heard: len(caller.heard) > since + 30)
            loud = fit_tone(rtp.samples(caller.heard[-20:]), 8_000, 1_000)
            assert abs(loud.level + 10) < 0.5
        assert np.diff(frames).max() < 0.2


async def test_a_new_codec_in_mid_call_is_followed() -> None:
    """A re-INVITE from PCMU to PCMA: audio goes on, and so does the call."""
    async with DirectPool() as pool, calling(pool, tone(1_000, -10, 1.0, 8_000)) as (caller, _):
        await until(lambda: len(caller.heard) > 25)
        caller.reinvite(payload_type=8)
        await until(lambda: pool.call_of(caller).codec == "PCMA")
        await until(lambda: caller.heard[-1].payload_type == 8)
        assert confirmed(pool, caller)


async def test_cancel_while_ringing() -> None:
    """The caller gives up: 487 for him, "cancelled" for us, and the line is free."""
    async with DirectPool(SipCall.ring) as pool, inviting(pool) as (caller, _, status):
        await until(lambda: pool.calls and pool.calls[0].state is CallState.EARLY)
        caller.cancel()
        assert await soon(status) == 487
        assert await soon(pool.calls[0].wait_closed()) == EndCause.cancelled()
        assert pool.free_lines == 8


async def test_a_refused_call_gets_our_status() -> None:
    """Hanging up before the answer sends the cause's status."""
    async with (
        DirectPool(lambda call: call.hangup(EndCause.busy("no slot")) and None) as pool,
        inviting(pool) as (_, _, status),
    ):
        assert await soon(status) == 503
        assert await soon(pool.calls[0].wait_closed()) == EndCause.busy("no slot")


async def test_our_bye_ends_the_call() -> None:
    """Hanging up sends BYE, and the call is closed when the peer has answered it."""
    async with DirectPool() as pool, calling(pool, tone(1_000, -10, 1.0, 8_000)) as (caller, _):
        await until(lambda: confirmed(pool, caller))
        call = pool.call_of(caller)
        cause = call.hangup(EndCause.hung_up("agent said good-bye"))
        assert await soon(call.wait_closed()) is cause
        await soon(caller.ended.wait())


async def test_a_transfer_is_refused() -> None:
    """REFER must not make a worker dial out (toll fraud): it is declined, no call is placed, ours goes on."""
    async with DirectPool() as pool, calling(pool, tone(1_000, -10, 1.0, 8_000)) as (caller, _):
        await until(lambda: len(caller.heard) > 5)
        dialled: list[bytes] = []
        sink, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Sink(dialled), local_addr=("127.0.0.1", 0)
        )
        caller.refer(f"sip:victim@127.0.0.1:{sink.get_extra_info('sockname')[1]}")
        heard = len(caller.heard)
        await until(lambda: len(caller.heard) > heard + 30)
        sink.close()
        assert caller.statuses[-1] == 603
        assert not dialled
        assert confirmed(pool, caller)


class _Sink(asyncio.DatagramProtocol):
    def __init__(self, received: list[bytes]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received.append(data)
