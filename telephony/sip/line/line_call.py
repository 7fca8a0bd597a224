"""A call as PJSIP has it (line worker; every method but the port callbacks runs on the worker's one thread)."""

from typing import Protocol

import pjsua2 as pj

from telephony.call import CallState
from telephony.sip.line.guard import guarded
from telephony.sip.line.latch import Latch
from telephony.sip.line.media import Line
from telephony.sip.line.messages import Dtmf, Latched, Media, Message, Referred, State, Stats

_STATES = {
    pj.PJSIP_INV_STATE_EARLY: CallState.EARLY,
    pj.PJSIP_INV_STATE_CONFIRMED: CallState.CONFIRMED,
    pj.PJSIP_INV_STATE_DISCONNECTED: CallState.DISCONNECTED,
}
_DECLINE = 603


class CallOwner(Protocol):
    """What a call needs of the worker that holds it."""

    def send(self, message: Message) -> bool:
        """Send to the gateway."""

    def report(self, fault: str) -> None:
        """Pass a fault on to the gateway's log."""

    def ended(self, call: "LineCall") -> None:
        """Forget the call, once PJSIP's callback has returned."""


class LineCall(pj.Call):
    """One INVITE dialog, its audio joined to a line's two ports."""

    def __init__(self, owner: CallOwner, account: pj.Account, library_id: int, number: int, line: Line) -> None:
        super().__init__(account, library_id)
        self.number = number
        self.line = line
        self._owner = owner
        self._latch = Latch()
        self._media_index: int | None = None
        self._answered = False
        self._by_us = False
        self._over = False
        self._referring = False
        self._received = self._lost = self._discarded = self._sent = 0
        self._times_ms = (0.0, 0.0, 0.0)  # jitter, round trip, jitter buffer
        line.take()

    def report(self, fault: str) -> None:
        """Pass a fault on to the gateway's log."""
        self._owner.report(f"call {self.number}: {fault}")

    def ring(self) -> None:
        """Send 180."""
        self._respond(180)

    def pick_up(self) -> None:
        """Send 200."""
        self._answered = True
        self._respond(200)

    def end(self, status: int, contact: str) -> None:
        """Send BYE, or ``status`` where the call is not answered yet, with ``contact`` where there is one."""
        if self._over:
            return
        self._by_us = True
        prm = pj.CallOpParam(True)
        prm.statusCode = status
        if contact and not self._answered:
            header = pj.SipHeader()
            header.hName, header.hValue = "Contact", f"<{contact}>"
            prm.txOption.headers.append(header)
        self.hangup(prm)

    def press(self, digits: str) -> None:
        """Press keys at the peer's end (RFC 4733)."""
        if not self._over:
            self.dialDtmf(digits)

    def refer(self, target: str) -> None:
        """Send REFER; what becomes of it comes with ``onCallTransferStatus``."""
        if self._over:
            return
        self._referring = True
        try:
            self.xfer(f"<{target}>", pj.CallOpParam(True))
        except pj.Error as error:
            self._tell_referred(500, error.reason, final=True)

    def watch_rtp(self) -> None:
        """Keep strangers' RTP out; to be called again and again."""
        if self._media_index is not None and self._latch.watch(self.getMedTransportInfo(self._media_index)):
            host, port = self._latch.source or ("", 0)
            self._owner.send(Latched(self.number, f"{host}:{port}"))

    @property
    def latched(self) -> bool:
        """The source of the peer's RTP is known."""
        return self._latch.source is not None

    @guarded
    def onCallState(self, prm: pj.OnCallStateParam) -> None:
        """Tell the gateway."""
        info = self.getInfo()
        state = _STATES.get(info.state)
        if state is None or self._over:
            return
        if state is CallState.DISCONNECTED:
            self._over = True
            self._owner.send(self._stats())
        status, reason = info.lastStatusCode, info.lastReason
        self._owner.send(State(self.number, state.value, status, reason, self._answered, self._by_us))
        if state is CallState.CONFIRMED:  # the gateway knows it before the first block comes
            self.line.open(self.number)
        if self._over:
            self.line.leave()
            self._owner.ended(self)

    @guarded
    def onCallMediaState(self, prm: pj.OnCallMediaStateParam) -> None:
        """Join the stream to the line; a stream the peer does not listen to leaves the line in silence."""
        info = self.getInfo()  # owns the list: SWIG keeps no reference
        for media in info.media:
            if media.type != pj.PJMEDIA_TYPE_AUDIO:
                continue
            held = not media.dir & pj.PJMEDIA_DIR_ENCODING
            self.line.mouth.hold(held)
            codec, rate = "", 0
            if media.status in (pj.PJSUA_CALL_MEDIA_ACTIVE, pj.PJSUA_CALL_MEDIA_REMOTE_HOLD) and media.dir:
                self._media_index = media.index
                self.line.connect(self.getAudioMedia(media.index))
                stream = self.getStreamInfo(media.index)
                codec, rate = stream.codecName, stream.codecClockRate
                transport = self.getMedTransportInfo(media.index)
                self._latch.negotiate(transport, stream.remoteRtpAddress, stream.remoteRtcpAddress)
            self._owner.send(Media(self.number, codec, rate, held))
            return

    @guarded
    def onDtmfDigit(self, prm: pj.OnDtmfDigitParam) -> None:
        """Tell the gateway."""
        self._owner.send(Dtmf(self.number, prm.digit))

    @guarded
    def onCallTransferStatus(self, prm: pj.OnCallTransferStatusParam) -> None:
        """Tell the gateway; after the final status PJSIP forgets whose it was, for the slot is another call's soon."""
        final = prm.finalNotify or prm.statusCode >= 200
        prm.cont = not final
        self._tell_referred(prm.statusCode, prm.reason, final)

    @guarded
    def onCallTransferRequest(self, prm: pj.OnCallTransferRequestParam) -> None:
        """Refuse: PJSIP would dial whatever the peer names."""
        prm.statusCode = _DECLINE

    @guarded
    def onCallReplaceRequest(self, prm: pj.OnCallReplaceRequestParam) -> None:
        """Refuse: nobody takes over a call from outside."""
        prm.statusCode = _DECLINE

    def _tell_referred(self, status: int, reason: str, final: bool) -> None:
        if self._referring and not self._over:
            self._referring = not final
            self._owner.send(Referred(self.number, status, reason, final))

    def _respond(self, status: int) -> None:
        if self._over:
            return
        prm = pj.CallOpParam(True)
        prm.statusCode = status
        self.answer(prm)

    @guarded
    def onStreamDestroyed(self, prm: pj.OnStreamDestroyedParam) -> None:
        """Keep a stream's figures while they can still be read; a call has one stream per negotiation."""
        stat = self.getStreamStat(prm.streamIdx)
        rtcp, jitter_buffer = stat.rtcp, stat.jbuf
        rx, tx = rtcp.rxStat, rtcp.txStat
        self._received += rx.pkt
        self._lost += rx.loss
        self._discarded += rx.discard
        self._sent += tx.pkt
        self._times_ms = rx.jitterUsec.mean / 1e3, rtcp.rttUsec.mean / 1e3, float(jitter_buffer.avgDelayMsec)

    def _stats(self) -> Stats:
        playout = self.line.mouth.playout
        packets = (self._received, self._lost, self._discarded, self._sent)
        return Stats(self.number, *packets, *self._times_ms, playout.underruns, playout.trimmed, self.line.ear.dropped)
