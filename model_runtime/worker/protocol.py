"""The worker protocol: msgpack messages on one WebSocket per conversation (DESIGN.md, section 3). No input or output.

Client to worker: ``open`` (once, first), ``audio``, ``close``. Worker to client: ``ready`` (once, first), ``frame``,
``error`` (last), ``drain`` (please move). Each message is a map with its ``type`` and exactly the fields of the
dataclass here; ``decode`` lets nothing else through.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, get_args

import msgpack

from config.audio import FRAME_BYTES
from model_runtime.engine.model import SamplingOptions
from model_runtime.errors import ProtocolError

__all__ = [
    "Audio",
    "ClientMessage",
    "Close",
    "Drain",
    "Error",
    "ErrorCode",
    "Frame",
    "Open",
    "Ready",
    "SamplingOptions",
    "WorkerMessage",
    "decode_from_client",
    "decode_from_worker",
    "encode",
]

MAX_MESSAGE_BYTES: Final = 16_384
SESSION_PATH: Final = "/v1/session"
TOKENS: Final = 17
_MAX_TEXT: Final = 1_024  # characters
_MAX_TOP_K: Final = 1_000_000
_MAX_TOKEN: Final = 2**31 - 1
_UNGENERATED: Final = -2  # the least token there is

ErrorCode = Literal["no_free_slot", "protocol", "idle", "too_slow", "model"]


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a conversation. The same seed, sampling and audio give the same conversation."""

    seed: int
    sampling: SamplingOptions = field(default_factory=SamplingOptions)


@dataclass(frozen=True, slots=True)
class Audio:
    """80 ms of the caller: 1,920 samples, 16 bit, little endian."""

    pcm: bytes
    captured_at: float
    """The client's monotonic clock, s; comes back in the ``Frame`` of the step that heard it."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the conversation; the worker frees the slot and closes the connection."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The conversation has a slot; audio may come."""

    slot: int
    slots: int
    model: str


@dataclass(frozen=True, slots=True)
class Frame:
    """What one step gave."""

    pcm: bytes
    """1,920 samples as in ``Audio``; empty where the client read too slowly and this audio has become too old."""
    text: str
    step: int
    """Counts the conversation's steps from 0."""
    tokens: tuple[int, ...]
    """The step's 17 tokens, text first; empty for a model without tokens."""
    captured_at: float
    """From the ``Audio`` that this step heard."""
    wait_ms: float
    """From the arrival of that ``Audio`` at the worker to the start of the step."""
    step_ms: float


@dataclass(frozen=True, slots=True)
class Error:
    """The conversation is over, and why; the worker closes the connection."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The worker will go away: please move. It takes no new conversation."""


ClientMessage = Open | Audio | Close
WorkerMessage = Ready | Frame | Error | Drain

_Check = Callable[[Any], Any]
"""Returns the value as the dataclass holds it, or raises ``ValueError`` with what would be right."""


def encode(message: ClientMessage | WorkerMessage) -> bytes:
    """One message as the bytes of one binary WebSocket message."""
    fields_ = {name: getattr(message, name) for name in _NAMES[type(message)]}
    if isinstance(message, Open):
        fields_["sampling"] = asdict(message.sampling)
    return msgpack.packb({"type": type(message).__name__.lower(), **fields_})


def decode_from_client(data: bytes) -> ClientMessage:
    """What a client may send; raises ``ProtocolError`` that names the message, the field and what would be right."""
    message: ClientMessage = _decode(data, _FROM_CLIENT)
    return message


def decode_from_worker(data: bytes) -> WorkerMessage:
    """What a worker may send; raises ``ProtocolError`` that names the message, the field and what would be right."""
    message: WorkerMessage = _decode(data, _FROM_WORKER)
    return message


def _decode(data: bytes, known: dict[str, tuple[type, dict[str, _Check]]]) -> Any:
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        value = msgpack.unpackb(data, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack: {error or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise ProtocolError("a message is a map")
    kind = value.pop("type", None)
    if not isinstance(kind, str) or kind not in known:
        raise ProtocolError(f"type: expected one of {', '.join(known)}; got {_brief(kind)}")
    cls, checks = known[kind]
    try:
        return _build(cls, checks, value)
    except ValueError as error:
        raise ProtocolError(f"{kind}: {error}") from None


def _build(cls: type, checks: dict[str, _Check], value: dict[Any, Any]) -> Any:
    if value.keys() != checks.keys():
        unknown = [key for key in value if key not in checks]
        if unknown:
            raise ValueError(f"{_brief(unknown[0])} is no field; there are: {', '.join(checks) or 'none'}")
        raise ValueError(f"{next(key for key in checks if key not in value)} is missing")
    checked = []
    for name, check in checks.items():
        try:
            checked.append(check(value[name]))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return cls(*checked)


def _brief(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _whole(low: int, high: int) -> _Check:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}; got {_brief(value)}")
        return value

    return check


def _number(low: float, high: float) -> _Check:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}; got {_brief(value)}")
        return float(value)

    return check


def _text(longest: int) -> _Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise ValueError(f"expected at most {longest} characters of text; got {_brief(value)}")
        return value

    return check


def _pcm(*sizes: int) -> _Check:
    def check(value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) not in sizes:
            got = f"{len(value)} bytes" if isinstance(value, bytes) else _brief(value)
            raise ValueError(f"expected {' or '.join(map(str, sizes))} bytes; got {got}")
        return value

    return check


def _tokens(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) not in (0, TOKENS):
        raise ValueError(f"expected none or {TOKENS} tokens; got {_brief(value)}")
    for token in value:
        _token(token)
    return tuple(value)


def _error_code(value: Any) -> str:
    if not isinstance(value, str) or value not in get_args(ErrorCode):
        raise ValueError(f"expected one of {', '.join(get_args(ErrorCode))}; got {_brief(value)}")
    return value


def _sampling(value: Any) -> SamplingOptions:
    if not isinstance(value, dict):
        raise ValueError(f"expected a map; got {_brief(value)}")
    sampling: SamplingOptions = _build(SamplingOptions, _SAMPLING, value)
    return sampling


_token: Final = _whole(_UNGENERATED, _MAX_TOKEN)
_seconds: Final = _number(-1e12, 1e12)
_milliseconds: Final = _number(0.0, 1e9)
_temperature: Final = _number(0.0, 100.0)
_top_k: Final = _whole(1, _MAX_TOP_K)
_count: Final = _whole(0, 2**53)

_SAMPLING: Final[dict[str, _Check]] = {
    "audio_temperature": _temperature,
    "audio_top_k": _top_k,
    "text_temperature": _temperature,
    "text_top_k": _top_k,
}
_FROM_CLIENT: Final[dict[str, tuple[type, dict[str, _Check]]]] = {
    "open": (Open, {"seed": _whole(0, 2**63 - 1), "sampling": _sampling}),
    "audio": (Audio, {"pcm": _pcm(FRAME_BYTES), "captured_at": _seconds}),
    "close": (Close, {}),
}
_FROM_WORKER: Final[dict[str, tuple[type, dict[str, _Check]]]] = {
    "ready": (Ready, {"slot": _count, "slots": _count, "model": _text(64)}),
    "frame": (
        Frame,
        {
            "pcm": _pcm(FRAME_BYTES, 0),
            "text": _text(_MAX_TEXT),
            "step": _count,
            "tokens": _tokens,
            "captured_at": _seconds,
            "wait_ms": _milliseconds,
            "step_ms": _milliseconds,
        },
    ),
    "error": (Error, {"code": _error_code, "message": _text(_MAX_TEXT)}),
    "drain": (Drain, {}),
}
_NAMES: Final = {
    cls: tuple(each.name for each in fields(cls)) for cls in (Open, Audio, Close, Ready, Frame, Error, Drain)
}
