"""What the gateway and a line worker say to each other: one class for each message, both processes.

``call`` is the worker's own number for a call, never used twice in a worker's life, so that a late message
cannot reach a line's next call.
"""

from dataclasses import dataclass

from telephony.call import Said


@dataclass(frozen=True, slots=True)
class Audio:
    """80 ms of a call's audio, either way: ``pcm`` is ``int16`` little-endian at the worker's rate.

    ``number``, to the gateway: how many blocks of the call left the line between its answer and this one, whether or
    not the channel had room for them. To the worker: the position of the first sample among all that the gateway has
    sent, at the worker's rate. Both count modulo 2**32 (three days of samples).
    """

    call: int
    at: float  # time.monotonic() when the block left the line (to the gateway) or the resampler (to the worker)
    pcm: bytes
    number: int
    said: tuple[Said, ...] = ()  # to the gateway: what the caller was sent meanwhile, at the worker's rate


@dataclass(frozen=True, slots=True)
class Open:
    """To the worker: take calls from now on, with the bridge at ``rate`` Hz (fixed for the process)."""

    rate: int
    codecs: list[str]
    rtp_address: str
    rtp_first: int
    rtp_last: int


@dataclass(frozen=True, slots=True)
class Ring:
    """To the worker: send 180."""

    call: int


@dataclass(frozen=True, slots=True)
class Answer:
    """To the worker: send 200."""

    call: int


@dataclass(frozen=True, slots=True)
class Hangup:
    """To the worker: send BYE, or ``status`` where the call is not answered yet, with ``contact`` where it is a 3xx."""

    call: int
    status: int
    contact: str = ""


@dataclass(frozen=True, slots=True)
class SendDtmf:
    """To the worker: press keys at the peer's end (RFC 4733)."""

    call: int
    digits: str


@dataclass(frozen=True, slots=True)
class Refer:
    """To the worker: send REFER, so that the peer calls ``target`` (RFC 3515)."""

    call: int
    target: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """To the worker: end every call and the process."""


@dataclass(frozen=True, slots=True)
class Ready:
    """To the gateway: the library is loaded; it holds ``capacity`` calls."""

    capacity: int


@dataclass(frozen=True, slots=True)
class Opened:
    """To the gateway: SIP is heard on UDP 127.0.0.1:``sip_port``."""

    sip_port: int


@dataclass(frozen=True, slots=True)
class Incoming:
    """To the gateway: an INVITE made ``call``."""

    call: int
    sip_call_id: str


@dataclass(frozen=True, slots=True)
class State:
    """To the gateway: a call's state changed; ``state`` is a ``CallState`` value, ``status`` the last SIP status."""

    call: int
    state: str
    status: int
    reason: str
    answered: bool  # a 200 had been sent
    by_us: bool  # the gateway asked for it


@dataclass(frozen=True, slots=True)
class Media:
    """To the gateway: a call's media was negotiated anew; ``held``: the peer wants to hear nothing."""

    call: int
    codec: str
    rate: int
    held: bool


@dataclass(frozen=True, slots=True)
class Latched:
    """To the gateway: RTP of ``call`` is taken from ``address`` alone from now on."""

    call: int
    address: str


@dataclass(frozen=True, slots=True)
class Dtmf:
    """To the gateway: the caller pressed a key (RFC 4733, or an INFO with application/dtmf-relay)."""

    call: int
    digit: str


@dataclass(frozen=True, slots=True)
class Referred:
    """To the gateway: what the peer said of a REFER, in its answer or in a NOTIFY; nothing more follows a final one."""

    call: int
    status: int
    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """To the gateway, once, before the state that ends a call: its media in figures (RFC 3550, section 6.4)."""

    call: int
    received: int  # RTP packets
    lost: int
    discarded: int
    sent: int
    jitter_ms: float
    round_trip_ms: float
    jitter_buffer_ms: float
    underruns: int
    trimmed: int  # samples at the line's rate
    dropped: int  # blocks the gateway was too slow to take


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """To the gateway, every 500 ms: the worker's one thread still turns."""

    at: float
    calls: int


@dataclass(frozen=True, slots=True)
class Log:
    """To the gateway: a line for its log."""

    level: str
    event: str


Message = (
    Audio
    | Open
    | Ring
    | Answer
    | Hangup
    | SendDtmf
    | Refer
    | Shutdown
    | Ready
    | Opened
    | Incoming
    | State
    | Media
    | Latched
    | Dtmf
    | Referred
    | Stats
    | Heartbeat
    | Log
)
