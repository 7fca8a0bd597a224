"""Calls held for real: SIP and RTP over UDP to a running gateway, in real time, several at once.

One event loop; packets leave on an absolute schedule of 20 ms. Speech is made and calls are judged in a thread, so that
no packet waits for it. The agent's words come from the gateway's transcript after the call, so callers go by its voice
alone.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from agent.evaluation import g711, rtp
from agent.evaluation.ear import Word
from agent.evaluation.gateway import Gateway
from agent.evaluation.plan import Plan
from agent.evaluation.replies import Replies
from agent.evaluation.schema import Suite
from agent.evaluation.sip_call import SipCall
from agent.evaluation.surroundings import LINE_RATE
from agent.evaluation.talk import Held, Talk, Told
from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from telephony.call import Frame
from telephony.errors import CallFailed
from telephony.resample import Resampler

_PACKETS: Final = round(FRAME_S / rtp.PACKET_S)
_FRAME: Final = _PACKETS * rtp.PACKET_SAMPLES
"""Samples of a frame at 8 kHz."""
_KEY_GAP: Final = 5
"""Packets of audio after each key."""
_LATE_S: Final = 2.0
"""A caller that is so far behind its schedule is not real any more: the machine is too slow."""


class SipLine:
    """Holds so many calls at a time."""

    def __init__(self, gateway: Gateway, replies: Replies, parallel: int) -> None:
        self._gateway, self._replies, self._parallel = gateway, replies, parallel

    def hold(self, plans: Iterable[Plan], suite: Suite, told: Told) -> None:
        """Hold the calls of these callers, and tell of each as it is over."""
        asyncio.run(self.hold_all(plans, suite, told))

    async def hold_all(self, plans: Iterable[Plan], suite: Suite, told: Told) -> None:
        """The same on an event loop that runs already."""
        waiting, one_at_a_time = iter(plans), asyncio.Lock()  # espeak-ng can only do one thing at a time

        async def callers() -> None:
            while True:
                async with one_at_a_time:
                    plan = await asyncio.to_thread(_next, waiting)
                if plan is None:
                    return
                held = await self._hold(plan, suite)
                async with one_at_a_time:
                    await asyncio.to_thread(told, held)

        async with asyncio.TaskGroup() as group:
            for number in range(self._parallel):
                group.create_task(callers(), name=f"callers {number}")

    async def _hold(self, plan: Plan, suite: Suite) -> Held:
        """One call and its transcript; a fault is told in what is returned."""
        codec: g711.Codec = "PCMU" if suite.line.codec == "none" else suite.line.codec
        name = f"eval-{secrets.token_hex(5)}"
        audio = _Audio(codec, Talk.begin(plan, suite, self._replies))
        call = SipCall(self._gateway.to, name, codec, audio.receive)
        try:
            await call.open()
            held = await audio.talk_on(call)
        except CallFailed as error:
            return replace(audio.held(None), fault=str(error), agent=np.zeros(0, np.int16))
        finally:
            await call.hang_up()
            call.close()
        try:
            kept = await self._gateway.kept(name)
        except CallFailed as error:
            return replace(held, fault=held.fault or str(error), call=name)
        words = [Word(word.at_s + audio.first_s, word.text) for word in kept.words]
        return replace(held, words=words, call=kept.call or name, fault=held.fault or kept.fault)


class _Audio:
    """The sound of one call, both ways."""

    def __init__(self, codec: g711.Codec, talk: Talk) -> None:
        self._codec: g711.Codec = codec
        self._talk = talk
        self._inlet = rtp.Inlet()
        self._begun_at: float | None = None  # time.monotonic()
        self._down, self._up = Resampler(SAMPLE_RATE, LINE_RATE), Resampler(LINE_RATE, SAMPLE_RATE)
        self._stamp = rtp.Stamp(secrets.randbits(32), secrets.randbits(15), secrets.randbits(31))
        self._keys: deque[bytes | None] = deque()
        self._pressed: int | None = None  # the timestamp at which a key went down

    @property
    def first_s(self) -> float:
        """When the gateway's first packet came, the beginning of its clock."""
        return self._inlet.first_s or 0.0

    def receive(self, data: bytes) -> None:
        """A datagram that came."""
        packet = rtp.parse(data)
        if packet is not None and self._begun_at is not None and packet.payload_type == g711.PAYLOAD_TYPES[self._codec]:
            at_s = time.monotonic() - self._begun_at
            self._inlet.put(at_s, packet.timestamp, g711.decode(packet.payload, self._codec))

    async def talk_on(self, call: SipCall) -> Held:
        """Send a packet every 20 ms until either side ends."""
        self._begun_at = time.monotonic()
        frame, fault = 0, ""
        while not self._talk.caller.over and call.hung_up_at is None and not fault:
            sent = self._down.push(self._talk.speak())
            self._press()
            for number in range(_PACKETS):
                due_s = self._begun_at + (frame * _PACKETS + number) * rtp.PACKET_S - time.monotonic()
                if due_s > 0:
                    await asyncio.sleep(due_s)
                elif due_s < -_LATE_S:
                    fault = f"this machine is too slow: a packet was {-due_s:.1f} s late"
                call.send_audio(self._packet(sent[number * rtp.PACKET_SAMPLES :][: rtp.PACKET_SAMPLES]))
            await _until(self._begun_at + (frame + 1) * FRAME_S)
            self._talk.hear(self._up.push(self._inlet.samples(frame * _FRAME, _FRAME)))
            frame += 1
        return replace(self.held(call.hung_up_at), fault=fault)

    def held(self, hung_up_at: float | None) -> Held:
        """What is kept of it: the agent as it was heard, late packets too."""
        held = self._talk.held()
        frames = len(held.caller) // FRAME_SAMPLES
        up = Resampler(LINE_RATE, SAMPLE_RATE)
        nothing = np.zeros(0, np.int16)
        parts = [up.push(self._inlet.samples(number * _FRAME, _FRAME)) for number in range(frames)]
        hung_up_s = None if hung_up_at is None or self._begun_at is None else hung_up_at - self._begun_at
        return replace(held, agent=np.concatenate([nothing, *parts]), hung_up_s=hung_up_s)

    def _press(self) -> None:
        """Take over the keys that are to be pressed now."""
        while self._talk.caller.keys:
            self._keys.extend([*rtp.key_events(self._talk.caller.keys.pop(0)), *[None] * _KEY_GAP])

    def _packet(self, audio: Frame) -> bytes:
        """The next packet: of a key that is being pressed, else ``audio``, ``int16 [160]``."""
        stamp = self._stamp
        self._stamp = stamp._replace(sequence=stamp.sequence + 1, timestamp=stamp.timestamp + rtp.PACKET_SAMPLES)
        key = self._keys.popleft() if self._keys else None
        if key is None:
            self._pressed = None
            payload_type, payload = g711.PAYLOAD_TYPES[self._codec], g711.encode(audio, self._codec)
            return rtp.build(stamp, payload_type, payload)
        first = self._pressed is None
        self._pressed = stamp.timestamp if self._pressed is None else self._pressed
        return rtp.build(stamp._replace(timestamp=self._pressed), rtp.KEY_PAYLOAD_TYPE, key, marker=first)


async def _until(at: float) -> None:
    """Sleep until ``time.monotonic()`` is there, once at least, so that what has come is taken in."""
    await asyncio.sleep(max(0.0, at - time.monotonic()))


def _next(plans: Iterator[Plan]) -> Plan | None:
    return next(plans, None)
