"""A line worker: the process that holds PJSIP and, in it, a few calls (``python -m telephony.sip.line.worker --fd N``).

The gateway spawns it with one end of a channel. One thread makes every pjsua2 call and turns the loop; PJSIP's own
clock thread moves the audio. It knows nothing of agents or models, hears SIP on 127.0.0.1 alone, and ends when the
channel does.
"""

import argparse
import gc
import select
import signal
import socket
import sys
import time
from typing import Final

import pjsua2 as pj

from config.process import prefer_media
from telephony.errors import ChannelError
from telephony.sip.line.channel import ChannelSocket
from telephony.sip.line.endpoint import create_endpoint, handle_events, open_endpoint, read_capacity
from telephony.sip.line.frames import check_layout
from telephony.sip.line.guard import guarded
from telephony.sip.line.line_call import LineCall
from telephony.sip.line.media import Line
from telephony.sip.line.messages import (
    Answer,
    Audio,
    Hangup,
    Heartbeat,
    Incoming,
    Log,
    Message,
    Open,
    Opened,
    Ready,
    Refer,
    Ring,
    SendDtmf,
    Shutdown,
)
from telephony.sip.line.privileges import drop_privileges

HEARTBEAT_S: Final = 0.5
_TURN_S: Final = 0.01  # PJSIP's timers and SIP socket are seen to this often
_FAREWELL_S: Final = 2.0  # time for peers to answer our BYEs
_RELEASE_S: Final = 0.1  # time for the clock thread to let go of the bridge's ports
_SWITCH_S: Final = 0.0005  # the clock thread gets the interpreter back this soon


class _Account(pj.Account):
    """Where INVITEs arrive."""

    def __init__(self, worker: "Worker") -> None:
        super().__init__()
        self._worker = worker

    def report(self, fault: str) -> None:
        """Pass a fault on to the gateway's log."""
        self._worker.report(fault)

    @guarded
    def onIncomingCall(self, prm: pj.OnIncomingCallParam) -> None:
        """Tell the gateway."""
        self._worker.accept(prm.callId)


class Worker:
    """The calls of this process, and the loop that serves them."""

    def __init__(self, channel: ChannelSocket, capacity: int) -> None:
        self._channel = channel
        self._capacity = capacity
        self._endpoint = create_endpoint()
        self._account: _Account | None = None
        self._rate = 0
        self._calls: dict[int, LineCall] = {}
        self._ended: list[LineCall] = []
        self._lines: list[Line] = []  # free ones
        self._number = 0
        self._done = False

    def run(self) -> None:
        """Serve until the gateway says so or is gone."""
        poll = select.poll()
        self.send(Ready(self._capacity))
        beat = 0.0
        while not self._done:
            now = time.monotonic()
            if now >= beat:
                self.send(Heartbeat(now, len(self._calls)))
                beat = now + HEARTBEAT_S
                self._watch_rtp(every=True)
            poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._channel.backlog else 0))
            poll.poll(1_000 * (_TURN_S if self._account else HEARTBEAT_S))
            self._channel.flush()
            for message in self._channel.receive():
                self._obey(message)
            if self._account:
                handle_events(self._endpoint)
                self._watch_rtp(every=False)
            self._ended.clear()
            self._done = self._done or self._channel.closed
        self._close()

    def send(self, message: Message) -> bool:
        """Send to the gateway; False where audio was dropped."""
        return self._channel.send(message)

    def report(self, fault: str) -> None:
        """Pass a fault on to the gateway's log."""
        self.send(Log("error", fault))

    def accept(self, library_id: int) -> None:
        """Take a new INVITE to the gateway, on a line of its own."""
        assert self._account is not None
        self._number += 1
        line = self._lines.pop() if self._lines else Line(self._rate, self._channel.send, self.report)
        call = LineCall(self, self._account, library_id, self._number, line)
        self._calls[call.number] = call
        self.send(Incoming(call.number, call.getInfo().callIdString))

    def ended(self, call: LineCall) -> None:
        """Forget a call, once PJSIP's callback has returned."""
        self._ended.append(call)
        if self._calls.pop(call.number, None):
            self._lines.append(call.line)

    def _obey(self, message: Message) -> None:
        match message:
            case Audio():
                if call := self._calls.get(message.call):
                    call.line.mouth.push(message.pcm, message.number)
            case Open():
                self._open(message)
            case Shutdown():
                self._done = True
            case Ring() | Answer() | Hangup() | SendDtmf() | Refer():
                if call := self._calls.get(message.call):
                    self._steer(call, message)

    def _steer(self, call: LineCall, message: Ring | Answer | Hangup | SendDtmf | Refer) -> None:
        try:
            match message:
                case Ring():
                    call.ring()
                case Answer():
                    call.pick_up()
                case Hangup(_, status, contact):
                    call.end(status, contact)
                case SendDtmf(_, digits):
                    call.press(digits)
                case Refer(_, target):
                    call.refer(target)
        except pj.Error as error:  # the peer may have ended the call a moment ago
            self.report(f"call {call.number}: {type(message).__name__}: {error.reason}")

    def _open(self, order: Open) -> None:
        self._rate = order.rate
        port = open_endpoint(self._endpoint, order.rate, order.codecs, pj.PJSIP_TRANSPORT_UDP, "127.0.0.1")
        config = pj.AccountConfig()
        config.idUri = "sip:denwa@127.0.0.1"
        config.callConfig.prackUse = pj.PJSUA_100REL_OPTIONAL
        rtp = config.mediaConfig.transportConfig
        rtp.boundAddress = order.rtp_address
        rtp.port = order.rtp_first
        rtp.portRange = order.rtp_last - order.rtp_first
        rtp.qosType = pj.PJ_QOS_TYPE_VOICE
        self._account = _Account(self)
        self._account.create(config)
        gc.collect()
        gc.freeze()
        self.send(Opened(port))

    def _watch_rtp(self, every: bool) -> None:
        for call in self._calls.values():
            if every or not call.latched:
                try:
                    call.watch_rtp()
                except pj.Error as error:
                    self.report(f"call {call.number}: RTP source: {error.reason}")

    def _close(self) -> None:
        """End every call with a BYE, and leave PJSIP with no object of ours in it: else it aborts."""
        if self._account:
            self._endpoint.hangupAllCalls()
            self._linger(_FAREWELL_S, until_quiet=True)
            self._channel.flush()
            self._calls.clear()
            self._ended.clear()
            self._lines.clear()
            self._account = None
            gc.unfreeze()
            gc.collect()
            self._linger(_RELEASE_S, until_quiet=False)
        self._endpoint.libDestroy(pj.PJSUA_DESTROY_NO_RX_MSG)

    def _linger(self, seconds: float, until_quiet: bool) -> None:
        """Turn PJSIP's loop for a while, or until no call is left."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and (self._calls or not until_quiet):
            handle_events(self._endpoint)
            time.sleep(_TURN_S)


def main() -> int:
    """Serve the channel on ``--fd`` until it ends; 0, or 1 when the gateway broke the protocol."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--user")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # the gateway decides
        signal.signal(number, signal.SIG_IGN)
    prefer_media()
    drop_privileges(arguments.user)
    sys.setswitchinterval(_SWITCH_S)
    check_layout()
    channel = ChannelSocket(socket.socket(fileno=arguments.fd))
    try:
        Worker(channel, read_capacity()).run()
    except ChannelError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
