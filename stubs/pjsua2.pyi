"""The names of pjsua2 2.15.1 that Denwa uses (telephony/sip's worker side, tests), written by hand."""

from collections.abc import Iterable, Iterator
from typing import Generic, SupportsInt, TypeVar

_T = TypeVar("_T")

PJMEDIA_DIR_ENCODING: int
PJMEDIA_FILE_NO_LOOP: int
PJMEDIA_FRAME_TYPE_AUDIO: int
PJMEDIA_FRAME_TYPE_NONE: int
PJMEDIA_TYPE_AUDIO: int
PJSIP_INV_STATE_NULL: int
PJSIP_INV_STATE_EARLY: int
PJSIP_INV_STATE_CONNECTING: int
PJSIP_INV_STATE_CONFIRMED: int
PJSIP_INV_STATE_DISCONNECTED: int
PJSIP_TRANSPORT_TCP: int
PJSIP_TRANSPORT_UDP: int
PJSUA_100REL_OPTIONAL: int
PJSUA_CALL_MEDIA_ACTIVE: int
PJSUA_CALL_MEDIA_REMOTE_HOLD: int
PJSUA_DESTROY_NO_RX_MSG: int
PJ_QOS_TYPE_VOICE: int

class _pjsua2:
    __file__: str

class Error(Exception):
    status: int
    title: str
    reason: str

class _Vector(Generic[_T]):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> _T: ...
    def __iter__(self) -> Iterator[_T]: ...

class ByteVector(_Vector[int]):
    this: SupportsInt
    def __init__(self, content: Iterable[int] = ...) -> None: ...
    def __bytes__(self) -> bytes: ...

class UaConfig:
    threadCnt: int
    mainThreadOnly: bool
    maxCalls: int
    userAgent: str

class MediaConfig:
    clockRate: int
    sndClockRate: int
    audioFramePtime: int
    ptime: int
    quality: int
    noVad: bool
    ecTailLen: int
    sndAutoCloseTime: int
    maxMediaPorts: int

class LogConfig:
    level: int
    consoleLevel: int

class EpConfig:
    uaConfig: UaConfig
    medConfig: MediaConfig
    logConfig: LogConfig

class TransportConfig:
    port: int
    portRange: int
    randomizePort: bool
    boundAddress: str
    publicAddress: str
    qosType: int

class TransportInfo:
    localName: str

class CodecInfo:
    codecId: str

class AudDevManager:
    def setNullDev(self) -> None: ...

class Endpoint:
    def libCreate(self) -> None: ...
    def libInit(self, config: EpConfig) -> None: ...
    def libStart(self) -> None: ...
    def libDestroy(self, flags: int = 0) -> None: ...
    def libHandleEvents(self, msec_timeout: int) -> int: ...
    def transportCreate(self, type: int, config: TransportConfig) -> int: ...
    def transportGetInfo(self, id: int) -> TransportInfo: ...
    def audDevManager(self) -> AudDevManager: ...
    def codecEnum2(self) -> _Vector[CodecInfo]: ...
    def codecSetPriority(self, codec_id: str, priority: int) -> None: ...
    def hangupAllCalls(self) -> None: ...

class AccountMediaConfig:
    transportConfig: TransportConfig

class AccountCallConfig:
    prackUse: int

class AccountConfig:
    idUri: str
    callConfig: AccountCallConfig
    mediaConfig: AccountMediaConfig

class OnIncomingCallParam:
    callId: int

class Account:
    def create(self, config: AccountConfig, make_default: bool = ...) -> None: ...
    def onIncomingCall(self, prm: OnIncomingCallParam) -> None: ...

class MediaFrame:
    type: int
    size: int
    buf: ByteVector

class MediaFormatAudio:
    type: int
    clockRate: int
    channelCount: int
    bitsPerSample: int
    frameTimeUsec: int

class AudioMedia:
    def startTransmit(self, sink: AudioMedia) -> None: ...
    def stopTransmit(self, sink: AudioMedia) -> None: ...

class AudioMediaPort(AudioMedia):
    def __init__(self) -> None: ...
    def createPort(self, name: str, form: MediaFormatAudio) -> None: ...
    def onFrameRequested(self, frame: MediaFrame) -> None: ...
    def onFrameReceived(self, frame: MediaFrame) -> None: ...

class AudioMediaPlayer(AudioMedia):
    def createPlayer(self, file_name: str, options: int = ...) -> None: ...

class AudioMediaRecorder(AudioMedia):
    def createRecorder(self, file_name: str) -> None: ...

class CallMediaInfo:
    index: int
    type: int
    dir: int
    status: int

class CallInfo:
    callIdString: str
    state: int
    lastStatusCode: int
    lastReason: str
    media: _Vector[CallMediaInfo]

class SipHeader:
    hName: str
    hValue: str

class SipHeaderVector(_Vector[SipHeader]):
    def append(self, header: SipHeader) -> None: ...

class SipTxOption:
    headers: SipHeaderVector

class CallOpParam:
    statusCode: int
    txOption: SipTxOption
    def __init__(self, useDefaultCallSetting: bool = ...) -> None: ...

class MathStat:
    mean: int

class RtcpStreamStat:
    pkt: int
    loss: int
    discard: int
    jitterUsec: MathStat

class RtcpStat:
    rxStat: RtcpStreamStat
    txStat: RtcpStreamStat
    rttUsec: MathStat

class JbufState:
    avgDelayMsec: int

class StreamStat:
    rtcp: RtcpStat
    jbuf: JbufState

class StreamInfo:
    codecName: str
    codecClockRate: int
    remoteRtpAddress: str
    remoteRtcpAddress: str

class MediaTransportInfo:
    localRtpName: str
    localRtcpName: str
    srcRtpName: str
    srcRtcpName: str

class OnCallStateParam: ...
class OnCallMediaStateParam: ...

class OnStreamDestroyedParam:
    streamIdx: int

class OnDtmfDigitParam:
    digit: str

class OnCallTransferRequestParam:
    statusCode: int

class OnCallTransferStatusParam:
    statusCode: int
    reason: str
    finalNotify: bool
    cont: bool

class OnCallReplaceRequestParam:
    statusCode: int

class Call:
    def __init__(self, account: Account, call_id: int = ...) -> None: ...
    def getInfo(self) -> CallInfo: ...
    def getAudioMedia(self, index: int) -> AudioMedia: ...
    def getStreamInfo(self, index: int) -> StreamInfo: ...
    def getStreamStat(self, index: int) -> StreamStat: ...
    def getMedTransportInfo(self, index: int) -> MediaTransportInfo: ...
    def makeCall(self, uri: str, prm: CallOpParam) -> None: ...
    def answer(self, prm: CallOpParam) -> None: ...
    def hangup(self, prm: CallOpParam) -> None: ...
    def dialDtmf(self, digits: str) -> None: ...
    def xfer(self, dest: str, prm: CallOpParam) -> None: ...
    def onCallState(self, prm: OnCallStateParam) -> None: ...
    def onCallMediaState(self, prm: OnCallMediaStateParam) -> None: ...
    def onStreamDestroyed(self, prm: OnStreamDestroyedParam) -> None: ...
    def onDtmfDigit(self, prm: OnDtmfDigitParam) -> None: ...
    def onCallTransferStatus(self, prm: OnCallTransferStatusParam) -> None: ...
    def onCallTransferRequest(self, prm: OnCallTransferRequestParam) -> None: ...
    def onCallReplaceRequest(self, prm: OnCallReplaceRequestParam) -> None: ...
