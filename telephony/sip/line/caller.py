"""A caller without a phone, for ``denwa call`` and for tests: one call through pjsua2, in a process of its own.

It dials the far end directly, plays a WAV file (else silence), records what it hears, and hangs up.
"""

import gc
import re
import socket
import time
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pjsua2 as pj

from telephony.errors import CallFailed
from telephony.sip.codec import CODEC_RATES
from telephony.sip.line.endpoint import create_endpoint, handle_events, open_endpoint
from telephony.sip.line.guard import guarded

_TURN_S: Final = 0.01
_FAREWELL_S: Final = 2.0  # time for the far end to answer our BYE
_RELEASE_S: Final = 0.2  # time for the clock thread to let go of the files
_ANSWER_S: Final = 60.0
_RTP_FIRST: Final = 20_000
_RTP_PORTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class CallReport:
    """How a placed call went."""

    status: int  # of the final answer
    reason: str
    duration_s: float  # from answer to end
    hung_up_by: str  # "us" or "peer"
    codec: str
    received: int  # RTP packets
    lost: int
    sent: int
    jitter_ms: float
    round_trip_ms: float


class _OutgoingCall(pj.Call):
    """The one call."""

    def __init__(self, account: pj.Account, play: Path | None, record: Path | None) -> None:
        super().__init__(account)
        self.state = pj.PJSIP_INV_STATE_NULL
        self.status = 0
        self.reason = ""
        self.codec = ""
        self.statistics: pj.StreamStat | None = None
        self.faults: list[str] = []
        self._player: pj.AudioMediaPlayer | None = None
        self._recorder: pj.AudioMediaRecorder | None = None
        if play is not None:
            self._player = pj.AudioMediaPlayer()
            self._player.createPlayer(str(play), pj.PJMEDIA_FILE_NO_LOOP)
        if record is not None:
            self._recorder = pj.AudioMediaRecorder()
            self._recorder.createRecorder(str(record))

    def report(self, fault: str) -> None:
        """Keep a fault until the loop sees it."""
        self.faults.append(fault)

    @guarded
    def onCallState(self, prm: pj.OnCallStateParam) -> None:
        """Keep the state, and the final answer."""
        info = self.getInfo()
        if self.state < pj.PJSIP_INV_STATE_CONNECTING:  # the final answer, not how it ended
            self.status, self.reason = info.lastStatusCode, info.lastReason
        self.state = info.state

    @guarded
    def onCallMediaState(self, prm: pj.OnCallMediaStateParam) -> None:
        """Join player and recorder to the stream."""
        info = self.getInfo()  # owns the list: SWIG keeps no reference
        for media in info.media:
            if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                audio = self.getAudioMedia(media.index)
                if self._player is not None:
                    self._player.startTransmit(audio)
                if self._recorder is not None:
                    audio.startTransmit(self._recorder)
                self.codec = self.getStreamInfo(media.index).codecName

    @guarded
    def onStreamDestroyed(self, prm: pj.OnStreamDestroyedParam) -> None:
        """Keep the stream's figures while they can be read."""
        self.statistics = self.getStreamStat(prm.streamIdx)


def place_call(uri: str, *, play: Path | None, record: Path | None, seconds: float, codec: str | None) -> CallReport:
    """Call ``uri`` for ``seconds`` after the answer and report how it went.

    ``play``: a mono 16-bit WAV of any rate; ``record``: a 16-bit WAV is written, at the codec's rate; ``codec``:
    PCMU, PCMA or G722, default: whatever the far end likes. The process can place no other call meanwhile.
    Raises ``CallFailed`` when nobody answers, ``ValueError`` for a bad URI, WAV or codec.
    """
    if codec is not None and codec not in CODEC_RATES:
        raise ValueError(f"unknown codec {codec!r}: use {', '.join(CODEC_RATES)}")
    if play is not None:
        _check_wav(play)
    address = _local_address(uri)
    transport = pj.PJSIP_TRANSPORT_TCP if ";transport=tcp" in uri.lower() else pj.PJSIP_TRANSPORT_UDP
    codecs = [codec] if codec else list(CODEC_RATES)
    rate = CODEC_RATES[codec] if codec else max(CODEC_RATES.values())
    endpoint = create_endpoint()
    try:
        open_endpoint(endpoint, rate, codecs, transport, address)
        outcome = _converse(endpoint, address, uri, (play, record), seconds)
    finally:
        gc.collect()  # no pjsua2 object may outlive the library
        endpoint.libDestroy(pj.PJSUA_DESTROY_NO_RX_MSG)
    if isinstance(outcome, CallFailed):
        raise outcome
    return outcome


def _check_wav(path: Path) -> None:
    try:
        with wave.open(str(path)) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise ValueError(f"{path}: not a mono 16-bit WAV")
    except (OSError, EOFError, wave.Error) as error:
        raise ValueError(f"{path}: {error}") from error


def _local_address(uri: str) -> str:
    """The address of ours that faces the far end: what it is to send its RTP to."""
    match = re.fullmatch(r"<?sips?:(?:[^@]*@)?(\[[^]]+\]|[^:;?>]+)(?::(\d+))?[^>]*>?", uri)
    if match is None:
        raise ValueError(f"not a SIP URI: {uri}")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((match[1], int(match[2] or 5_060)))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise CallFailed(f"no way to {match[1]}: {error}") from error


def _account(address: str) -> pj.Account:
    config = pj.AccountConfig()
    config.idUri = f"sip:denwa@{address}"
    rtp = config.mediaConfig.transportConfig
    rtp.boundAddress = address
    rtp.port, rtp.portRange, rtp.randomizePort = _RTP_FIRST, _RTP_PORTS, True
    account = pj.Account()
    account.create(config)
    return account


def _converse(
    endpoint: pj.Endpoint, address: str, uri: str, files: tuple[Path | None, Path | None], seconds: float
) -> CallReport | CallFailed:
    """Hold the call; a failure is returned, for a traceback would keep the call beyond the library's end."""
    account = _account(address)
    try:
        call = _OutgoingCall(account, *files)
        call.makeCall(uri if uri.startswith("<") else f"<{uri}>", pj.CallOpParam(True))
    except pj.Error as error:
        return CallFailed(f"cannot call {uri}: {error.reason}")
    _turn(endpoint, call, _ANSWER_S, until=pj.PJSIP_INV_STATE_CONFIRMED)
    answered = call.state == pj.PJSIP_INV_STATE_CONFIRMED
    began = time.monotonic()
    if answered:
        _turn(endpoint, call, seconds, until=pj.PJSIP_INV_STATE_DISCONNECTED)
    duration_s = time.monotonic() - began
    by_us = call.state != pj.PJSIP_INV_STATE_DISCONNECTED
    if by_us:
        call.hangup(pj.CallOpParam(True))
        _turn(endpoint, call, _FAREWELL_S, until=pj.PJSIP_INV_STATE_DISCONNECTED)
    _turn(endpoint, call, _RELEASE_S, until=None)
    if call.faults:
        return CallFailed(call.faults[0])
    if not answered:
        return CallFailed(f"not answered: {call.status} {call.reason}", call.status)
    return _report(call, duration_s, "us" if by_us else "peer")


def _turn(endpoint: pj.Endpoint, call: _OutgoingCall, seconds: float, until: int | None) -> None:
    """Turn the loop for ``seconds``, or until the call has come to a state."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (until is None or call.state < until):
        handle_events(endpoint)
        time.sleep(_TURN_S)


def _report(call: _OutgoingCall, duration_s: float, hung_up_by: str) -> CallReport:
    rtcp = call.statistics.rtcp if call.statistics is not None else pj.StreamStat().rtcp
    return CallReport(
        call.status,
        call.reason,
        duration_s,
        hung_up_by,
        call.codec,
        rtcp.rxStat.pkt,
        rtcp.rxStat.loss,
        rtcp.txStat.pkt,
        rtcp.rxStat.jitterUsec.mean / 1e3,
        rtcp.rttUsec.mean / 1e3,
    )
