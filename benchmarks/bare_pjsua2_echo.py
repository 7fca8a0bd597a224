"""The baseline of the echo benchmark: pjsua2 alone, one process, no gateway and no model.

Answers every call and sends the caller's audio back after 80 ms of framing. The bridge runs at 24 kHz with PJSIP's best
resampler; a receive port takes 80 ms at a time, a transmit port gives 20 ms. All pjsua calls are made on the main
thread; the ports' callbacks run on PJSIP's clock thread.

    python -m benchmarks.bare_pjsua2_echo --port 5070 --rtp-first 14000
"""

import argparse
import ctypes
import gc
import signal
import time
from collections import deque

import pjsua2 as pj

RATE = 24_000
RX_BYTES = RATE * 80 // 1000 * 2
TX_BYTES = RATE * 20 // 1000 * 2
SILENCE = bytes(TX_BYTES)
GRAVE_S = 1.0
"""How long a finished call's ports stay referenced: PJSIP takes them off its bridge later."""


def _format(frame_ms: int) -> pj.MediaFormatAudio:
    form = pj.MediaFormatAudio()
    form.type = pj.PJMEDIA_TYPE_AUDIO
    form.clockRate, form.channelCount, form.bitsPerSample, form.frameTimeUsec = RATE, 1, 16, frame_ms * 1000
    return form


def _data(vector: pj.ByteVector) -> int:
    """Address of a std::vector's first element: libstdc++ keeps it in the first word."""
    return ctypes.c_void_p.from_address(int(vector.this)).value or 0


class ReceivePort(pj.AudioMediaPort):
    """Takes 80 ms of the caller's audio and queues it as four packets' worth."""

    def __init__(self, fifo: deque[bytes]) -> None:
        super().__init__()
        self._fifo = fifo

    def onFrameReceived(self, frame: pj.MediaFrame) -> None:
        """Queue one block."""
        size = frame.size if frame.type == pj.PJMEDIA_FRAME_TYPE_AUDIO else 0
        block = ctypes.string_at(_data(frame.buf), size) if size == RX_BYTES else bytes(RX_BYTES)
        self._fifo.extend(block[i : i + TX_BYTES] for i in range(0, RX_BYTES, TX_BYTES))


class TransmitPort(pj.AudioMediaPort):
    """Gives the bridge 20 ms of what waits, or silence."""

    def __init__(self, fifo: deque[bytes]) -> None:
        super().__init__()
        self._fifo = fifo
        self._out = pj.ByteVector(SILENCE)

    def onFrameRequested(self, frame: pj.MediaFrame) -> None:
        """Fill one tick."""
        block = self._fifo.popleft() if self._fifo else SILENCE
        ctypes.memmove(_data(self._out), block, TX_BYTES)
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        frame.buf = self._out
        frame.size = TX_BYTES


class EchoCall(pj.Call):
    """One answered call."""

    def __init__(self, account: "EchoAccount", call_id: int) -> None:
        super().__init__(account, call_id)
        self._account = account
        self.ports: list[pj.AudioMediaPort] = []

    def onCallMediaState(self, prm: pj.OnCallMediaStateParam) -> None:
        """Connect both ports once audio is up."""
        info = self.getInfo()  # owns its media: a reference must outlive the loop
        for index, media in enumerate(info.media):
            if media.type != pj.PJMEDIA_TYPE_AUDIO or media.status != pj.PJSUA_CALL_MEDIA_ACTIVE or self.ports:
                continue
            fifo: deque[bytes] = deque()
            receive, transmit = ReceivePort(fifo), TransmitPort(fifo)
            receive.createPort("receive", _format(80))
            transmit.createPort("transmit", _format(20))
            self.ports = [receive, transmit]
            audio = self.getAudioMedia(index)
            audio.startTransmit(receive)
            transmit.startTransmit(audio)

    def onCallState(self, prm: pj.OnCallStateParam) -> None:
        """Bury the call when it is over."""
        if self.getInfo().state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self._account.bury(self)


class EchoAccount(pj.Account):
    """Answers whoever calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, EchoCall] = {}
        self.graves: deque[tuple[float, list[pj.AudioMediaPort]]] = deque()

    def onIncomingCall(self, prm: pj.OnIncomingCallParam) -> None:
        """Answer with 200."""
        call = self.calls[prm.callId] = EchoCall(self, prm.callId)
        answer = pj.CallOpParam(True)
        answer.statusCode = 200
        call.answer(answer)

    def bury(self, call: EchoCall) -> None:
        """Forget a call; keep its ports until PJSIP has surely let go of them."""
        self.calls.pop(call.getId(), None)
        self.graves.append((time.monotonic() + GRAVE_S, call.ports))

    def clear_graves(self) -> None:
        """Drop the ports whose time has come."""
        while self.graves and self.graves[0][0] < time.monotonic():
            self.graves.popleft()


def _endpoint(port: int) -> pj.Endpoint:
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.uaConfig.threadCnt, config.uaConfig.mainThreadOnly = 0, True
    config.logConfig.level = config.logConfig.consoleLevel = 1
    media = config.medConfig
    media.clockRate = media.sndClockRate = RATE
    media.audioFramePtime, media.quality, media.ecTailLen = 20, 10, 0
    media.noVad, media.sndAutoCloseTime = True, -1
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.port, transport.boundAddress = port, "127.0.0.1"
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.audDevManager().setNullDev()
    endpoint.libStart()
    return endpoint


def _account(port: int, rtp_first: int) -> EchoAccount:
    config = pj.AccountConfig()
    config.idUri = f"sip:echo@127.0.0.1:{port}"
    transport = config.mediaConfig.transportConfig
    transport.port, transport.portRange, transport.boundAddress = rtp_first, 200, "127.0.0.1"
    account = EchoAccount()
    account.create(config)
    return account


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=5070)
    parser.add_argument("--rtp-first", type=int, default=14_000)
    options = parser.parse_args()

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopping.append(n))
    endpoint = _endpoint(options.port)
    account = _account(options.port, options.rtp_first)
    print("ready", flush=True)
    while not stopping:
        endpoint.libHandleEvents(10)
        account.clear_graves()

    endpoint.hangupAllCalls()
    until = time.monotonic() + GRAVE_S
    while time.monotonic() < until:
        endpoint.libHandleEvents(10)
    account.calls.clear()
    account.graves.clear()
    account.shutdown()
    del account
    gc.collect()
    endpoint.libDestroy()


if __name__ == "__main__":
    main()
