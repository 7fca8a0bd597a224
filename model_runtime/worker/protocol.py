"""The worker protocol: msgpack messages on one WebSocket per conversation (DESIGN.md, section 3). No input or output.

Client to worker: ``open`` (once, first), ``audio``, ``force``, ``close``. Worker to client: ``ready`` (once, first),
``frame``, ``error`` (last), ``drain`` (please move). Each message is a map with its ``type`` and exactly the fields of
the dataclass here; ``decode`` lets nothing else through. Fields that came later (``_OPTIONAL``) may be left out, and
are where they say nothing, so that either end may be older than the other.
"""

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, get_args

import msgpack

from config.audio import FRAME_BYTES
from model_runtime.engine.model import AgentPrompt, SamplingOptions
from model_runtime.errors import ProtocolError
from model_runtime.worker.checks import Check, blocks, brief, number, pcm, text, whole, yes_or_no

__all__ = [
    "AgentPrompt",
    "Audio",
    "ClientMessage",
    "Close",
    "Drain",
    "Error",
    "ErrorCode",
    "Force",
    "Frame",
    "Open",
    "Ready",
    "Resume",
    "SamplingOptions",
    "WorkerMessage",
    "check_open",
    "decode_from_client",
    "decode_from_worker",
    "encode",
]

MAX_MESSAGE_BYTES: Final = 16_384
"""Of every message but an ``open``, which may bring a past and a greeting."""
RESUME_STEPS: Final = 3_000
"""Steps whose tokens a resumed conversation may bring along: four minutes, what Moshi's attention spans."""
RESUME_FRAMES: Final = 125
"""Frames of the caller that it may bring along: ten seconds, what Mimi's attention spans."""
GREETING_FRAMES: Final = 375
"""Of a greeting as audio: half a minute."""
MAX_TEXT: Final = 4_000
"""Characters of instructions, of a greeting and of a text to be said."""
SESSION_PATH: Final = "/v1/session"
TOKENS: Final = 17
_TOKENS_BYTES: Final = 4 * TOKENS
MAX_OPEN_BYTES: Final = (
    MAX_MESSAGE_BYTES
    + 8 * MAX_TEXT
    + RESUME_STEPS * _TOKENS_BYTES
    + RESUME_FRAMES * FRAME_BYTES
    + GREETING_FRAMES * FRAME_BYTES
)
_MAX_TEXT: Final = 1_024  # characters
_MAX_TOP_K: Final = 1_000_000
_MAX_TOKEN: Final = 2**31 - 1
_UNGENERATED: Final = -2  # the least token there is

ErrorCode = Literal["no_free_slot", "protocol", "idle", "too_slow", "too_fast", "model"]


@dataclass(frozen=True, slots=True)
class Resume:
    """A conversation as another worker left it.

    Where it is greedy and goes on with the same audio it goes on with the same tokens (model_runtime/resume.py says how
    exactly); where it draws, with other random numbers.
    """

    step: int
    """The number of the next step: how many were done."""
    tokens: bytes
    """``Frame.tokens`` of the last ones, int32 little endian, at most ``RESUME_STEPS`` times 17."""
    heard: bytes
    """``Audio.pcm`` of the frames that the last of these heard, at most ``RESUME_FRAMES``; may be empty."""


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a conversation. The same seed, sampling, prompt and audio give the same conversation."""

    seed: int
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    prompt: AgentPrompt = field(default_factory=AgentPrompt)
    resume: Resume | None = None


@dataclass(frozen=True, slots=True)
class Audio:
    """80 ms of the caller: 1,920 samples, 16 bit, little endian."""

    pcm: bytes
    captured_at: float
    """The client's monotonic clock, s; comes back in the ``Frame`` of the step that heard it."""


@dataclass(frozen=True, slots=True)
class Force:
    """Let the model say ``text``, word for word, as soon as it is between two words.

    The first one ends the wait of a prompt that asks for one; where ``text`` is empty it does no more than that.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Close:
    """End the conversation; the worker frees the slot and closes the connection."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The conversation has a slot; audio may come."""

    slot: int
    slots: int
    model: str
    caller_text_delay: float = 0.0
    """By so much ``Frame.caller_text`` lags the audio in which it was spoken, s; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What one step gave."""

    pcm: bytes
    """1,920 samples as in ``Audio``; empty where the client read too slowly and this audio has become too old."""
    text: str
    step: int
    """Counts the conversation's steps from 0."""
    tokens: tuple[int, ...]
    """The step's 17 tokens, empty for a model without tokens: text and own codes that it drew, user codes it heard.

    -2 where it heard nothing. All steps' tokens together are what ``Resume`` takes. Audio and text of this message were
    drawn partly in the step before, for acoustic codes lag by one step.
    """
    captured_at: float
    """From the ``Audio`` that this step heard."""
    wait_ms: float
    """From the arrival of that ``Audio`` at the worker to the start of the step."""
    step_ms: float
    scripted: bool = False
    """Whether there was a text to say: its tokens were forced in this step, or it waited for the model to end its word.

    The last step of a recorded greeting, in which its last acoustic codes are forced, counts too; the wait of a prompt
    that asks for one does not. The first step after the last text was said has False.
    """
    caller_text: str = ""
    """What the caller's words of some time ago add to the transcript (``Ready.caller_text_delay``)."""


@dataclass(frozen=True, slots=True)
class Error:
    """The conversation is over, and why; the worker closes the connection."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The worker will go away: please move. It takes no new conversation."""


ClientMessage = Open | Audio | Force | Close
WorkerMessage = Ready | Frame | Error | Drain


def encode(message: ClientMessage | WorkerMessage) -> bytes:
    """One message as the bytes of one binary WebSocket message."""
    fields_ = _said(message)
    if isinstance(message, Open):
        fields_["sampling"] = _said(message.sampling)
        fields_["prompt"] = _said(message.prompt)
        fields_["resume"] = None if message.resume is None else asdict(message.resume)
    return msgpack.packb({"type": type(message).__name__.lower(), **fields_})


def _said(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, without later ones that say nothing."""
    given = {name: getattr(value, name) for name in _NAMES[type(value)]}
    return {name: field for name, field in given.items() if name not in _LATER or field != _LATER[name]}


def check_open(request: Open) -> Open:
    """The same, made elsewhere than by decoding, if it could have come over the wire; raises ``ProtocolError``."""
    checked = decode_from_client(encode(request))
    assert isinstance(checked, Open)
    return checked


def decode_from_client(data: bytes) -> ClientMessage:
    """What a client may send; raises ``ProtocolError`` that names the message, the field and what would be right."""
    message: ClientMessage = _decode(data, _FROM_CLIENT)
    return message


def decode_from_worker(data: bytes) -> WorkerMessage:
    """What a worker may send; raises ``ProtocolError`` that names the message, the field and what would be right."""
    message: WorkerMessage = _decode(data, _FROM_WORKER)
    return message


def _decode(data: bytes, known: dict[str, tuple[type, dict[str, Check]]]) -> Any:
    if len(data) > MAX_OPEN_BYTES or (len(data) > MAX_MESSAGE_BYTES and _OPEN_MARK not in data[:_MARK_WITHIN]):
        raise ProtocolError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        value = msgpack.unpackb(data, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack: {error or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise ProtocolError("a message is a map")
    kind = value.pop("type", None)
    if not isinstance(kind, str) or kind not in known:
        raise ProtocolError(f"type: expected one of {', '.join(known)}; got {brief(kind)}")
    cls, checks = known[kind]
    try:
        return _build(cls, checks, value)
    except ValueError as error:
        raise ProtocolError(f"{kind}: {error}") from None


def _build(cls: type, checks: dict[str, Check], value: dict[Any, Any]) -> Any:
    if value.keys() != checks.keys():
        unknown = [key for key in value if key not in checks]
        if unknown:
            raise ValueError(f"{brief(unknown[0])} is no field; there are: {', '.join(checks) or 'none'}")
        missing = next((key for key in checks if key not in value and key not in _OPTIONAL), None)
        if missing is not None:
            raise ValueError(f"{missing} is missing")
    checked = {}
    for name, check in checks.items():
        if name not in value:
            continue  # the dataclass says what that means
        try:
            checked[name] = check(value[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return cls(**checked)


def _recording(value: Any) -> bytes:
    most = GREETING_FRAMES * FRAME_BYTES
    if not isinstance(value, bytes) or len(value) % 2 or len(value) > most:
        got = f"{len(value)} bytes" if isinstance(value, bytes) else brief(value)
        raise ValueError(f"expected at most {most} bytes (30 s) of 16-bit samples; got {got}")
    return value


def _voice(value: Any) -> str:
    if not isinstance(value, str) or not _VOICE.fullmatch(value):
        raise ValueError(f"expected a name of letters, digits, '.', '-' and '_', or nothing; got {brief(value)}")
    return value


def _tokens(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) not in (0, TOKENS):
        raise ValueError(f"expected none or {TOKENS} tokens; got {brief(value)}")
    for token in value:
        _token(token)
    return tuple(value)


def _error_code(value: Any) -> str:
    if not isinstance(value, str) or value not in get_args(ErrorCode):
        raise ValueError(f"expected one of {', '.join(get_args(ErrorCode))}; got {brief(value)}")
    return value


def _sampling(value: Any) -> SamplingOptions:
    if not isinstance(value, dict):
        raise ValueError(f"expected a map; got {brief(value)}")
    sampling: SamplingOptions = _build(SamplingOptions, _SAMPLING, value)
    return sampling


def _prompt(value: Any) -> AgentPrompt:
    if value is None:
        return AgentPrompt()
    if not isinstance(value, dict):
        raise ValueError(f"expected a map; got {brief(value)}")
    prompt: AgentPrompt = _build(AgentPrompt, _PROMPT, value)
    return prompt


def _resume(value: Any) -> Resume | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"expected a map; got {brief(value)}")
    resume: Resume = _build(Resume, _RESUME, value)
    steps, frames = len(resume.tokens) // _TOKENS_BYTES, len(resume.heard) // FRAME_BYTES
    if steps > resume.step or steps < min(resume.step, 2):
        raise ValueError(f"tokens: expected those of at most {resume.step} steps, and of 2 at least; got {steps}")
    if frames > resume.step:
        raise ValueError(f"heard: expected at most {resume.step} frames; got {frames}")
    return resume


_VOICE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
_LATER: Final[dict[str, object]] = {
    "pad_bias": 0.0,
    "repetition_penalty": 1.0,
    "greeting_audio": b"",
    "wait": False,
    "caller_text_delay": 0.0,
    "scripted": False,
    "caller_text": "",
}
"""Fields that came later, and what they are where they are left out."""
_OPTIONAL: Final = ("prompt", "resume", *_LATER)
_OPEN_MARK: Final = msgpack.packb({"type": "open"})[1:]
_MARK_WITHIN: Final = 32  # bytes; ``type`` comes first
_token: Final = whole(_UNGENERATED, _MAX_TOKEN)
_seconds: Final = number(-1e12, 1e12)
_milliseconds: Final = number(0.0, 1e9)
_temperature: Final = number(0.0, 100.0)
_top_k: Final = whole(1, _MAX_TOP_K)
_count: Final = whole(0, 2**53)

_SAMPLING: Final[dict[str, Check]] = {
    "audio_temperature": _temperature,
    "audio_top_k": _top_k,
    "text_temperature": _temperature,
    "text_top_k": _top_k,
    "pad_bias": number(-100.0, 100.0),
    "repetition_penalty": number(1.0, 10.0),
}
_PROMPT: Final[dict[str, Check]] = {
    "instructions": text(MAX_TEXT),
    "voice": _voice,
    "greeting": text(MAX_TEXT),
    "greeting_audio": _recording,
    "wait": yes_or_no,
}
_RESUME: Final[dict[str, Check]] = {
    "step": whole(1, 2**53),
    "tokens": blocks(_TOKENS_BYTES, RESUME_STEPS),
    "heard": blocks(FRAME_BYTES, RESUME_FRAMES),
}
_FROM_CLIENT: Final[dict[str, tuple[type, dict[str, Check]]]] = {
    "open": (
        Open,
        {"seed": whole(0, 2**63 - 1), "sampling": _sampling, "prompt": _prompt, "resume": _resume},
    ),
    "audio": (Audio, {"pcm": pcm(FRAME_BYTES), "captured_at": _seconds}),
    "force": (Force, {"text": text(MAX_TEXT)}),
    "close": (Close, {}),
}
_FROM_WORKER: Final[dict[str, tuple[type, dict[str, Check]]]] = {
    "ready": (Ready, {"slot": _count, "slots": _count, "model": text(64), "caller_text_delay": number(0.0, 60.0)}),
    "frame": (
        Frame,
        {
            "pcm": pcm(FRAME_BYTES, 0),
            "text": text(_MAX_TEXT),
            "step": _count,
            "tokens": _tokens,
            "captured_at": _seconds,
            "wait_ms": _milliseconds,
            "step_ms": _milliseconds,
            "scripted": yes_or_no,
            "caller_text": text(_MAX_TEXT),
        },
    ),
    "error": (Error, {"code": _error_code, "message": text(_MAX_TEXT)}),
    "drain": (Drain, {}),
}
_NAMES: Final = {
    cls: tuple(each.name for each in fields(cls))
    for cls in (Open, Audio, Force, Close, Ready, Frame, Error, Drain, SamplingOptions, AgentPrompt)
}
