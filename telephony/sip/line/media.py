"""The ports through which a call's audio enters and leaves PJSIP's conference bridge (line worker).

Their callbacks run on PJSIP's clock thread, every 20 ms for the mouth and every 80 ms for the ear. Ports are never
removed from the bridge: the clock thread may still be in one when its call ends, so the next call takes it over.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
import pjsua2 as pj

from config.audio import FRAME_S, TICK_S
from telephony.playout import Playout
from telephony.sip.line.frames import FrameBuffer, read_frame
from telephony.sip.line.guard import guarded
from telephony.sip.line.messages import Audio

Report = Callable[[str], None]


class Ear(pj.AudioMediaPort):
    """Hears a call: every 80 ms of what the peer says leaves as one block, silence included."""

    def __init__(self, rate: int, send: Callable[[Audio], bool], report: Report) -> None:
        """``send`` must be safe to call from the clock thread and never wait."""
        super().__init__()
        self.call: int | None = None
        """The call that blocks belong to; None between calls."""
        self.dropped = 0
        self.report = report
        self._send = send
        self._silence = bytes(2 * round(rate * FRAME_S))
        self.createPort("ear", _format(rate, FRAME_S))

    @guarded
    def onFrameReceived(self, frame: pj.MediaFrame) -> None:
        """Pass on a block; one without audio stands for 80 ms of silence."""
        if self.call is None:
            return
        pcm = read_frame(frame)
        if len(pcm) != len(self._silence):
            pcm = self._silence
        if not self._send(Audio(self.call, time.monotonic(), pcm)):
            self.dropped += 1


class Mouth(pj.AudioMediaPort):
    """Speaks to a call: 20 ms at a time out of the playout FIFO."""

    def __init__(self, rate: int, report: Report) -> None:
        super().__init__()
        self.report = report
        self._rate = rate
        self._buffer = FrameBuffer(2 * round(rate * TICK_S))
        self._lock = threading.Lock()
        self._playout = Playout(rate)
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
            self._held = False

    def hold(self, held: bool) -> None:
        """While held nothing is played and nothing kept, and silence is no underrun."""
        with self._lock:
            self._held = held
            if held:
                self._playout.clear()

    def push(self, pcm: bytes) -> None:
        """Queue ``int16`` samples."""
        block = np.frombuffer(pcm, np.int16)
        with self._lock:
            if not self._held:
                self._playout.push(block)

    @guarded
    def onFrameRequested(self, frame: pj.MediaFrame) -> None:
        """Give the bridge the next 20 ms."""
        with self._lock:
            block = self._playout.pull()
        self._buffer.write(frame, block.tobytes())


class Line:
    """The two ports of one call at a time, at the bridge's rate."""

    def __init__(self, rate: int, send: Callable[[Audio], bool], report: Report) -> None:
        self.ear = Ear(rate, send, report)
        self.mouth = Mouth(rate, report)

    def take(self, call: int) -> None:
        """Begin a call."""
        self.mouth.reset()
        self.ear.dropped = 0
        self.ear.call = call

    def connect(self, media: pj.AudioMedia) -> None:
        """Join both ports to a call's stream; again after every negotiation, for the stream may be new."""
        media.startTransmit(self.ear)
        self.mouth.startTransmit(media)

    def leave(self) -> None:
        """End a call; the ports stay in the bridge."""
        self.ear.call = None


def _format(rate: int, seconds: float) -> pj.MediaFormatAudio:
    form = pj.MediaFormatAudio()
    form.type = pj.PJMEDIA_TYPE_AUDIO
    form.clockRate = rate
    form.channelCount = 1
    form.bitsPerSample = 16
    form.frameTimeUsec = round(seconds * 1e6)
    return form
