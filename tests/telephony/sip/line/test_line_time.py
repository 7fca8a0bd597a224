"""The line's clock, on a real line worker: what the caller was sent, and when."""

import asyncio
import itertools

import numpy as np
import pytest

from config.audio import FRAME_SAMPLES, TICK_S
from telephony.call import Frame, LineTime
from telephony.sip.line.call import SipCall
from telephony.sip.line.channel import Channel
from telephony.sip.line.messages import Audio
from tests.peers import rtp
from tests.peers.audio import tone
from tests.telephony.sip.line.direct import DirectCaller, DirectPool, calling, until

SILENCE = np.zeros(FRAME_SAMPLES, np.int16)
LOUD = tone(1_000, -6, FRAME_SAMPLES / 24_000, 24_000)
TICK_SAMPLES = FRAME_SAMPLES // 4
QUIET = tone(1_000, -60, 1.0, 8_000)


class _Talk:
    """Answers, plays a loud frame now and then and silence between, and keeps all that the line says."""

    def __init__(self, every: int = 9) -> None:
        self.frames: list[tuple[Frame, LineTime]] = []
        self.clicks: list[int] = []
        """Positions of the loud frames."""
        self._every = every

    def __call__(self, call: SipCall) -> None:
        def hear(frame: Frame, time: LineTime) -> None:
            self.frames.append((frame, time))
            loud = len(self.frames) % self._every == 0
            position = call.play(LOUD if loud else SILENCE)
            if loud:
                self.clicks.append(position)

        call.on_frame = hear
        call.answer()

    @property
    def times(self) -> list[LineTime]:
        """What the clock said of each frame."""
        return [time for _, time in self.frames]

    def sent(self, position: int) -> tuple[int, float] | None:
        """When a sample went out: on the line's clock in samples, and by ``time.monotonic()`` of its tick."""
        for time in self.times:
            for run in time.said:
                if run.position <= position < run.position + run.count:
                    offset = run.offset + position - run.position
                    ticks_after = 3 - offset // TICK_SAMPLES
                    return time.number * FRAME_SAMPLES + offset, time.captured_at - ticks_after * TICK_S
        return None

    def heard(self, since: int) -> int:
        """When something loud came in after ``since``, on the line's clock in samples."""
        audio = np.concatenate([frame for frame, _ in self.frames]).astype(int)
        return since + int(np.argmax(np.abs(audio[since:]) > 5_000))


def _echo(caller: DirectCaller) -> None:
    """Let a caller send back each packet at once."""
    next(task for task in asyncio.all_tasks() if task.get_name() == "speak").cancel()
    hear = caller._on_rtp

    def echo(data: bytes, source: tuple[str, int]) -> None:
        hear(data, source)
        caller._rtp.sendto(data, caller.rtp_peer)

    caller._rtp.get_protocol()._on_datagram = echo


@pytest.mark.parametrize("payload_type", [0, 9])
async def test_blocks_are_counted_from_the_answer(payload_type: int) -> None:
    """The first frame is number 0, none is missing, and all that was played went out once and in order."""
    talk = _Talk()
    async with DirectPool(talk) as pool, calling(pool, QUIET, payload_type):
        await until(lambda: len(talk.frames) > 30)
    assert [time.number for time in talk.times] == list(range(len(talk.frames)))
    assert talk.times[0].said == ()
    runs = [(time.number, run) for time in talk.times for run in time.said]
    assert runs[0][1].position == 0
    assert runs[0][0] in (1, 2)
    at = [(number * FRAME_SAMPLES + run.offset, run.position, run.count) for number, run in runs]
    for (before, position, count), (after, following, _) in itertools.pairwise(at):
        assert after >= before + count
        assert following >= position + count
    lost = at[-1][1] + at[-1][2] - sum(count for _, _, count in at)
    assert lost <= 2 * TICK_SAMPLES  # trimmed, at most


async def test_what_the_clock_says_was_sent_is_on_the_wire_in_that_tick() -> None:
    """Mouth and ear lie on one clock without an offset: the packet leaves in the tick that the runs name.

    An echo that the peer sends back at once shows the line's own latency: its jitter buffer, and the next tick.
    """
    talk = _Talk()
    async with DirectPool(talk) as pool, calling(pool, QUIET) as (caller, _):
        await until(lambda: caller.rtp_peer is not None)
        _echo(caller)
        await until(lambda: len(talk.frames) > 60, 8)
        packets = list(caller.heard)
    off_wire_ms, echo_ms = [], []
    for click in talk.clicks[1:-1]:
        sent = talk.sent(click + 480)  # within the sound
        assert sent is not None
        on_wire = next(
            p.at for p in packets if p.at > sent[1] - 0.06 and np.abs(rtp.samples([p]).astype(int)).max() > 5_000
        )
        begin = talk.sent(click)
        assert begin is not None
        off_wire_ms.append(1e3 * (on_wire - begin[1]))
        echo_ms.append((talk.heard(begin[0]) - begin[0]) / 24)
    assert np.abs(off_wire_ms).max() < 10
    assert np.ptp(echo_ms) < 25
    assert 15 < np.median(echo_ms) < 90


async def test_frames_lost_on_their_way_to_the_line_shift_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that was full for a moment leaves a gap in what was said; what comes after has its right position."""
    talk = _Talk()
    send = Channel.send
    outward = 0

    def lose(self: Channel, message: object) -> None:
        nonlocal outward
        if isinstance(message, Audio):
            outward += 1
            if 10 <= outward < 14:
                return
        send(self, message)

    monkeypatch.setattr(Channel, "send", lose)
    async with DirectPool(talk) as pool, calling(pool, QUIET) as (caller, _):
        await until(lambda: len(talk.frames) > 40, 6)
        packets = list(caller.heard)
    assert talk.sent(8 * FRAME_SAMPLES) is not None
    assert all(talk.sent(number * FRAME_SAMPLES) is None for number in range(9, 13))
    sent = talk.sent(talk.clicks[2])
    assert sent is not None
    loud = [p.at for p in packets if np.abs(rtp.samples([p]).astype(int)).max() > 5_000]
    assert min(abs(at - sent[1]) for at in loud) < 0.01


async def test_a_new_negotiation_does_not_stop_the_clock() -> None:
    """Hold, resume and other codecs in mid-call: every 80 ms is one block, and what is played goes on being told."""
    talk = _Talk()
    async with DirectPool(talk) as pool, calling(pool, QUIET) as (caller, _):
        await until(lambda: len(talk.frames) > 5)
        for direction, payload_type in (("sendonly", 0), ("sendrecv", 0), ("sendrecv", 8), ("sendrecv", 0)):
            frames = len(talk.frames)
            caller.reinvite(direction, payload_type)
            await until(lambda frames=frames: len(talk.frames) > frames + 6)
    times = talk.times
    begin = times[0].captured_at
    late_ms = [1e3 * (time.captured_at - begin - 0.08 * time.number) for time in times]
    assert [time.number for time in times] == list(range(len(times)))
    assert np.abs(np.median(late_ms[-8:]) - np.median(late_ms[:5])) < 15
    assert all(time.said for time in times[-10:])


async def test_nothing_is_said_while_on_hold() -> None:
    """A peer that wants to hear nothing is told nothing: no runs, and frames go on."""
    talk = _Talk()
    async with DirectPool(talk) as pool, calling(pool, QUIET) as (caller, _):
        await until(lambda: len(talk.frames) > 10)
        caller.reinvite("sendonly")
        await until(lambda: pool.call_of(caller).held)
        held = len(talk.frames) + 1
        await until(lambda: len(talk.frames) > held + 8)
        resumed = len(talk.frames)
        caller.reinvite("sendrecv")
        await until(lambda: not pool.call_of(caller).held)
        await until(lambda: len(talk.frames) > resumed + 8)
    assert not any(time.said for time in talk.times[held:resumed])
    last = talk.times[-1]
    assert last.said[-1].position // FRAME_SAMPLES in range(len(talk.frames) - 5, len(talk.frames))
