from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_runtime.errors import ProtocolError
from model_runtime.worker.protocol import (
    AgentPrompt,
    Audio,
    ClientMessage,
    Close,
    Drain,
    Error,
    Force,
    Frame,
    Open,
    Ready,
    Resume,
    SamplingOptions,
    WorkerMessage,
    decode_from_client,
    decode_from_worker,
    encode,
)

PCM = bytes(range(256)) * 15
RESUMING = Open(
    1, prompt=AgentPrompt("Be kind.", "NATF0", "Hello."), resume=Resume(5_000, bytes(3_000 * 68), bytes(125 * 3_840))
)
GREETING = AgentPrompt("Be kind.", "NATF0", "Hello.", bytes(375 * 3_840), True)
FRAME = Frame(PCM, " hi", 7, tuple(range(-2, 15)), 12.5, 0.25, 14.0)


@pytest.mark.parametrize(
    "message",
    [
        Open(2**63 - 1, SamplingOptions(0.0, 1, 2.5, 32_000)),
        Open(0),
        Open(7, SamplingOptions(0.0, 1, 2.5, 32_000, -100.0, 10.0), GREETING),
        RESUMING,
        replace(RESUMING, prompt=replace(GREETING, instructions="😀" * 4_000, greeting="😀" * 4_000)),
        Audio(PCM, -1.5),
        Force("Grüß Gott."),
        Force(""),
        Close(),
    ],
)
def test_what_a_client_sends_arrives(message: ClientMessage) -> None:
    """A client's message decodes to itself."""
    assert decode_from_client(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Ready(0, 4, "m"),
        Ready(0, 4, "m", 0.5),
        FRAME,
        replace(FRAME, scripted=True, caller_text=" yes"),
        Frame(b"", "", 0, (), 0.0, 0.0, 0.0),
        Error("idle", "too long"),
        Drain(),
    ],
)
def test_what_a_worker_sends_arrives(message: WorkerMessage) -> None:
    """A worker's message decodes to itself."""
    assert decode_from_worker(encode(message)) == message


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (Open(1), {"seed", "sampling", "prompt", "resume"}),
        (Ready(0, 4, "m"), {"slot", "slots", "model"}),
        (FRAME, {"pcm", "text", "step", "tokens", "captured_at", "wait_ms", "step_ms"}),
    ],
)
def test_what_says_nothing_is_left_out(message: Open | Ready | Frame, fields: set[str]) -> None:
    """A message that uses no later field can be read by an older end, which does not know them."""
    sent = msgpack.unpackb(encode(message))
    assert set(sent) == {"type"} | fields
    if isinstance(message, Open):
        assert set(sent["sampling"]) == {"audio_temperature", "audio_top_k", "text_temperature", "text_top_k"}
        assert set(sent["prompt"]) == {"instructions", "voice", "greeting"}


GOOD_PROMPT = {"instructions": "", "voice": "", "greeting": ""}
GOOD_OPEN = {
    "type": "open",
    "seed": 1,
    "sampling": {"audio_temperature": 0.8, "audio_top_k": 250, "text_temperature": 0.7, "text_top_k": 25},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "say"}, "type: expected one of open, audio, force, close; got 'say'"),
        ({"type": ["open"]}, "type: expected"),
        ({"past": []}, "open: 'past' is no field; there are: seed, sampling, prompt, resume"),
        ({"resume": []}, "open: resume: expected a map"),
        ({"resume": {"step": 3, "tokens": bytes(68), "heard": b""}}, "resume: tokens: expected those of at most 3"),
        ({"resume": {"step": 3, "tokens": bytes(4 * 68), "heard": b""}}, "resume: tokens: expected those of at most 3"),
        ({"resume": {"step": 9, "tokens": bytes(69), "heard": b""}}, "tokens: expected at most 3000 times 68 bytes"),
        ({"resume": {"step": 0, "tokens": b"", "heard": b""}}, "step: expected a whole number from 1"),
        ({"resume": {"step": 2, "tokens": bytes(136), "heard": bytes(3 * 3840)}}, "heard: expected at most 2 frames"),
        ({"prompt": {"instructions": "", "voice": "../etc", "greeting": ""}}, "prompt: voice: expected a name"),
        ({"prompt": {"instructions": "", "voice": "", "greeting": "x" * 4001}}, "greeting: expected at most 4000"),
        ({"prompt": {"instructions": ""}}, "prompt: voice is missing"),
        (
            {"prompt": GOOD_PROMPT | {"greeting_audio": bytes(3)}},
            "greeting_audio: expected at most 1440000 bytes (30 s)",
        ),
        ({"prompt": GOOD_PROMPT | {"greeting_audio": bytes(1_440_002)}}, "greeting_audio: expected at most 1440000"),
        ({"prompt": GOOD_PROMPT | {"greeting_audio": ""}}, "prompt: greeting_audio: expected at most 1440000 bytes"),
        ({"prompt": GOOD_PROMPT | {"wait": 1}}, "prompt: wait: expected true or false; got 1"),
        ({"seed": -1}, "open: seed: expected a whole number from 0 to"),
        ({"seed": True}, "open: seed: expected a whole number"),
        ({"sampling": None}, "open: sampling: expected a map"),
        ({"sampling": {}}, "open: sampling: audio_temperature is missing"),
        (
            {"sampling": GOOD_OPEN["sampling"] | {"text_top_k": 0}},
            "sampling: text_top_k: expected a whole number from 1",
        ),  # type: ignore[operator]
        (
            {"sampling": GOOD_OPEN["sampling"] | {"text_temperature": float("nan")}},
            "text_temperature: expected a number",
        ),  # type: ignore[operator]
        ({"sampling": GOOD_OPEN["sampling"] | {"pad_bias": 101}}, "pad_bias: expected a number from -100 to 100"),  # type: ignore[operator]
        (
            {"sampling": GOOD_OPEN["sampling"] | {"repetition_penalty": 0.9}},
            "sampling: repetition_penalty: expected a number from 1 to 10",
        ),  # type: ignore[operator]
    ],
)
def test_an_error_names_message_field_and_remedy(change: dict[str, object], message: str) -> None:
    """A refused message tells which field was wrong and what would be right."""
    with pytest.raises(ProtocolError) as caught:
        decode_from_client(msgpack.packb(GOOD_OPEN | change))
    assert message in str(caught.value)


@pytest.mark.parametrize("pcm", [b"", PCM[:-1], PCM + b"\0", "x" * 3840, None])
def test_audio_is_one_frame(pcm: object) -> None:
    """A client's audio is 3,840 bytes, no more and no less."""
    with pytest.raises(ProtocolError, match="audio: pcm: expected 3840 bytes"):
        decode_from_client(msgpack.packb({"type": "audio", "pcm": pcm, "captured_at": 0.0}))


@pytest.mark.parametrize("tokens", [[1] * 16, [1] * 18, [-3] + [1] * 16, [2**31] * 17, [1.0] * 17, "17"])
def test_tokens_are_seventeen_or_none(tokens: object) -> None:
    """Tokens are 17 whole numbers from -2, or none."""
    message = msgpack.unpackb(encode(FRAME)) | {"tokens": tokens}
    with pytest.raises(ProtocolError, match="frame: tokens: expected"):
        decode_from_worker(msgpack.packb(message))


def test_the_ends_do_not_mix() -> None:
    """A worker's message is none of a client's, and the reverse."""
    with pytest.raises(ProtocolError):
        decode_from_client(encode(FRAME))
    with pytest.raises(ProtocolError):
        decode_from_worker(encode(Close()))


def test_a_message_has_a_greatest_size() -> None:
    """What is too long is refused before it is unpacked; only an ``open`` may bring more."""
    for data in (bytes(20_000), encode(Audio(PCM * 5, 0.0)), encode(Force("x" * 20_000))):
        with pytest.raises(ProtocolError, match="at most 16384"):
            decode_from_client(data)
    with pytest.raises(ProtocolError, match="at most 16384"):
        decode_from_client(encode(RESUMING) + bytes(1_500_000))


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.binary(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "seed",
    "sampling",
    "prompt",
    "resume",
    "pcm",
    "captured_at",
    "slot",
    "slots",
    "model",
    "text",
    "step",
    "tokens",
    "wait_ms",
    "step_ms",
    "code",
    "message",
    "scripted",
    "caller_text",
    "caller_text_delay",
]
LIKELY = st.fixed_dictionaries(
    {"type": st.sampled_from(["open", "audio", "close", "ready", "frame", "error", "drain"])},
    optional=dict.fromkeys(FIELDS, VALUE | st.just(PCM) | st.just(GOOD_OPEN["sampling"])),
)


@given(st.binary(max_size=200) | (VALUE | LIKELY).map(msgpack.packb))
def test_decoding_raises_nothing_but_protocol_errors(data: bytes) -> None:
    """Whatever comes, it is a message or a ``ProtocolError``."""
    for decode in (decode_from_client, decode_from_worker):
        try:
            message = decode(data)
        except ProtocolError:
            continue
        encode(message)


@given(st.data())
def test_a_damaged_message_raises_nothing_but_protocol_errors(data: st.DataObject) -> None:
    """A good message with some bytes changed or cut off is a message or a ``ProtocolError``."""
    good = bytearray(encode(data.draw(st.sampled_from([FRAME, Open(5), Audio(PCM, 1.0), Ready(1, 2, "m")]))))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, min(80, len(good) - 1)))] = data.draw(st.integers(0, 255))
    damaged = bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else bytes(good)
    for decode in (decode_from_client, decode_from_worker):
        try:
            decode(damaged)
        except ProtocolError:
            continue
