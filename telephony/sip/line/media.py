"""The ports through which a call's audio enters and leaves PJSIP's conference bridge (line worker).

Their callbacks run on PJSIP's clock thread, every 20 ms for the mouth and every 80 ms for the ear. Ports are never
removed from the bridge: the clock thread may still be in one when its call ends, so the next call takes it over.

In each tick the bridge first gets 20 ms from every source, then gives every sink its mix (pjmedia/conference.c). So
when the ear's block leaves, the mouth's last four pulls are the very four ticks of that block: no offset lies between
the two. What the mouth gives in a tick is on the wire in it; what comes back at once is heard one tick and the jitter
buffer later. Neither hold nor another codec in mid-call makes the blocks skip or shift.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import numpy as np
import pjsua2 as pj

from config.audio import FRAME_S, TICK_S
from telephony.call import Said
from telephony.playout import Playout
from telephony.sip.line.frames import FrameBuffer, read_frame
from telephony.sip.line.guard import guarded
from telephony.sip.line.messages import Audio

Report = Callable[[str], None]

_TICKS: Final = round(FRAME_S / TICK_S)


class Mouth(pj.AudioMediaPort):
    """Speaks to a call: 20 ms at a time out of the playout FIFO."""

    def __init__(self, rate: int, report: Report) -> None:
        super().__init__()
        self.report = report
        self._rate = rate
        self._tick = round(rate * TICK_S)
        self._buffer = FrameBuffer(2 * self._tick)
        self._lock = threading.Lock()
        self._playout = Playout(rate)
        self._said: deque[tuple[Said, ...]] = deque(maxlen=_TICKS)  # by each pull since a block left
        self._held = False
        self.createPort("mouth", _format(rate, TICK_S))

    @property
    def playout(self) -> Playout:
        """The FIFO, to read its counters."""
        return self._playout

    def reset(self) -> None:
        """Forget all of the call before."""
        with self._lock:
            self._playout = Playout(self._rate)
            self._said.clear()
            self._held = False

    def hold(self, held: bool) -> None:
        """While held nothing is played and nothing kept, and silence is no underrun."""
        with self._lock:
            self._held = held
            if held:
                self._playout.clear()

    def push(self, pcm: bytes, position: int) -> None:
        """Queue ``int16`` samples; ``position`` of the first among all that the gateway has sent."""
        block = np.frombuffer(pcm, np.int16)
        with self._lock:
            if not self._held:
                self._playout.push(block, position)

    def take_said(self) -> tuple[Said, ...]:
        """What went out in the 80 ms up to now, at the line's rate, and was not taken before.

        Where there were fewer ticks since a block left (the stream is new), they were the last ones.
        """
        with self._lock:
            begin = (_TICKS - len(self._said)) * self._tick
            said: list[Said] = []
            for tick, runs in enumerate(self._said):
                for run in runs:
                    offset = begin + tick * self._tick + run.offset
                    last = said[-1] if said else None
                    if last and (last.offset + last.count, last.position + last.count) == (offset, run.position):
                        said[-1] = Said(last.offset, last.position, last.count + run.count)
                    else:
                        said.append(Said(offset, run.position, run.count))
            self._said.clear()
        return tuple(said)

    @guarded
    def onFrameRequested(self, frame: pj.MediaFrame) -> None:
        """Give the bridge the next 20 ms."""
        with self._lock:
            block = self._playout.pull()
            self._said.append(self._playout.said)
        self._buffer.write(frame, block.tobytes())


class Ear(pj.AudioMediaPort):
    """Hears a call: every 80 ms of what the peer says leaves as one block, silence included."""

    def __init__(self, rate: int, mouth: Mouth, send: Callable[[Audio], bool], report: Report) -> None:
        """``send`` must be safe to call from the clock thread and never wait."""
        super().__init__()
        self.dropped = 0
        self.report = report
        self._call: int | None = None
        self._number = 0
        self._mouth = mouth
        self._send = send
        self._silence = bytes(2 * round(rate * FRAME_S))
        self.createPort("ear", _format(rate, FRAME_S))

    @guarded
    def onFrameReceived(self, frame: pj.MediaFrame) -> None:
        """Pass on a block; one without audio stands for 80 ms of silence."""
        call = self._call
        if call is None:
            return
        pcm = read_frame(frame)
        if len(pcm) != len(self._silence):
            pcm = self._silence
        number, self._number = self._number, self._number + 1
        if not self._send(Audio(call, time.monotonic(), pcm, number, self._mouth.take_said())):
            self.dropped += 1

    def open(self, call: int) -> None:
        """Let blocks leave from now on, for this call; the next one is its number 0."""
        self.dropped = self._number = 0
        self._call = call

    def close(self) -> None:
        """Let no more blocks leave."""
        self._call = None


class Line:
    """The two ports of one call at a time, at the bridge's rate."""

    def __init__(self, rate: int, send: Callable[[Audio], bool], report: Report) -> None:
        self.mouth = Mouth(rate, report)
        self.ear = Ear(rate, self.mouth, send, report)

    def take(self) -> None:
        """Begin a call."""
        self.mouth.reset()
        self.ear.dropped = 0

    def open(self, call: int) -> None:
        """Listen, for the call is answered: its clock begins, and the block that leaves next is its number 0."""
        self.ear.open(call)

    def connect(self, media: pj.AudioMedia) -> None:
        """Join both ports to a call's stream; again after every negotiation, for the stream may be new."""
        media.startTransmit(self.ear)
        self.mouth.startTransmit(media)

    def leave(self) -> None:
        """End a call; the ports stay in the bridge."""
        self.ear.close()


def _format(rate: int, seconds: float) -> pj.MediaFormatAudio:
    form = pj.MediaFormatAudio()
    form.type = pj.PJMEDIA_TYPE_AUDIO
    form.clockRate = rate
    form.channelCount = 1
    form.bitsPerSample = 16
    form.frameTimeUsec = round(seconds * 1e6)
    return form
