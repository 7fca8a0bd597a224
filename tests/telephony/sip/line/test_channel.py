import asyncio
import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.call import Said
from telephony.errors import ChannelError
from telephony.sip.line.channel import Channel, ChannelSocket, channel_pair, decode, encode
from telephony.sip.line.messages import (
    Answer,
    Audio,
    Dtmf,
    Hangup,
    Heartbeat,
    Incoming,
    Latched,
    Log,
    Media,
    Message,
    Open,
    Opened,
    Ready,
    Refer,
    Referred,
    Ring,
    SendDtmf,
    Shutdown,
    State,
    Stats,
)

CONTROLS: list[Message] = [
    Open(8_000, ["PCMU", "G722"], "0.0.0.0", 10_000, 10_499),
    Ring(1),
    Answer(2),
    Hangup(3, 486),
    Hangup(3, 302, "sip:desk@192.0.2.1"),
    SendDtmf(4, "12#"),
    Refer(5, "sip:desk@192.0.2.1"),
    Shutdown(),
    Ready(4),
    Opened(5_062),
    Incoming(1, "a84b4c76e66710@pc33"),
    State(1, "confirmed", 200, "OK", True, False),
    Media(1, "PCMU", 8_000, False),
    Latched(1, "127.0.0.1:4000"),
    Dtmf(1, "#"),
    Referred(5, 180, "Ringing", False),
    Stats(1, 2, 3, 4, 5, 0.5, 1.5, 20.0, 6, 7, 8),
    Heartbeat(12.5, 3),
    Log("error", "it broke"),
]


@pytest.mark.parametrize("message", CONTROLS, ids=lambda message: type(message).__name__)
def test_a_control_message_arrives_as_it_was_sent(message: Message) -> None:
    """Encoding and decoding give the message back."""
    assert decode(encode(message)) == message


_COUNTER = st.integers(0, 2**32 - 1)


@st.composite
def _audio(draw: st.DrawFn) -> Audio:
    samples = draw(st.integers(0, 2_560))
    marks = sorted(draw(st.sets(st.integers(0, samples), max_size=12)))
    runs = list(zip(marks[::2], marks[1::2], strict=False))
    said = tuple(Said(begin, draw(_COUNTER), end - begin) for begin, end in runs)
    pcm = draw(st.binary(min_size=2, max_size=2)) * samples
    return Audio(draw(_COUNTER), draw(st.floats(allow_nan=False)), pcm, draw(_COUNTER), said)


@given(_audio())
def test_audio_arrives_as_it_was_sent(audio: Audio) -> None:
    """Call, time, samples, number and what was said survive."""
    assert decode(encode(audio)) == audio


@pytest.mark.parametrize(
    "said",
    [
        (Said(0, 0, 641),),
        (Said(0, 0, 0),),
        (Said(0, 0, 10), Said(5, 20, 10)),
        (Said(20, 0, 10), Said(0, 20, 10)),
        (Said(0, 0, 10),) * 255,
    ],
)
def test_what_was_said_lies_in_its_block_in_order(said: tuple[Said, ...]) -> None:
    """Runs beyond the block, empty, crossing or out of order are nonsense, and so is a packet too short for them."""
    packet = encode(Audio(1, 0.0, bytes(1_280), 2, said))
    for cut in (0, 1_278, 1_280):
        with pytest.raises(ChannelError):
            decode(packet[: len(packet) - cut])


def test_counters_begin_anew_after_three_days() -> None:
    """A call of more than 2**32 samples breaks nothing."""
    audio = decode(encode(Audio(1, 0.0, bytes(4), 2**32 + 7, (Said(0, 2**32 + 9, 2),))))
    assert audio == Audio(1, 0.0, bytes(4), 7, (Said(0, 9, 2),))


@given(st.binary(max_size=200))
def test_nonsense_raises_channel_error_only(packet: bytes) -> None:
    """A worker gone mad cannot make the gateway raise anything else."""
    for data in (packet, b"\x01" + packet, b"\x02" + packet):
        try:
            decode(data)
        except ChannelError:
            continue


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(State)])
def test_a_field_of_another_type_is_refused(field: str) -> None:
    """Every field of a control message is checked before anyone relies on it."""
    wrong = dataclasses.replace(State(1, "confirmed", 200, "OK", True, False), **{field: [None]})
    with pytest.raises(ChannelError, match=field):
        decode(encode(wrong))


def test_a_full_socket_drops_audio_and_keeps_control_messages() -> None:
    """Nothing blocks: audio that finds no room is counted, control messages wait and come in order."""
    ours, theirs = channel_pair()
    sender, receiver = ChannelSocket(ours), ChannelSocket(theirs)
    sent = 0
    while sender.send(Audio(1, 0.0, bytes(1_280), 0)):
        sent += 1
    began = time.monotonic()
    assert not sender.send(Audio(1, 0.0, bytes(1_280), 0))
    for call in range(100):
        sender.send(Answer(call))
    assert time.monotonic() - began < 0.1
    assert sent * 0.08 > 1.0  # seconds of audio that fit
    assert sender.dropped == 2
    received: list[Message] = []
    while sender.backlog:
        received += receiver.receive()
        sender.flush()
    received += receiver.receive()
    assert [message for message in received if isinstance(message, Answer)] == [Answer(call) for call in range(100)]
    sender.close()
    receiver.close()


def test_the_end_comes_after_what_was_sent_before_it() -> None:
    """A message sent just before the other end died is not lost."""
    ours, theirs = channel_pair()
    sender, receiver = ChannelSocket(ours), ChannelSocket(theirs)
    sender.send(Ready(4))
    sender.close()
    assert receiver.receive() == [Ready(4)]
    assert receiver.closed
    assert not receiver.send(Answer(1))
    receiver.close()


async def test_the_gateways_end_tells_of_messages_and_of_the_end() -> None:
    """On the loop, each message is handed over and the death of the other end is told once."""
    ours, theirs = channel_pair()
    received: list[Message] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    channel = Channel(ours, received.append, ended.set_result)
    worker = ChannelSocket(theirs)
    worker.send(Ready(4))
    worker.send(Heartbeat(1.0, 0))
    worker.close()
    async with asyncio.timeout(2):
        assert await ended == "channel closed"
    assert received == [Ready(4), Heartbeat(1.0, 0)]
    channel.send(Answer(1))  # to nobody
    channel.close()


async def test_a_backlog_is_sent_when_the_socket_has_room() -> None:
    """Control messages beyond the socket's room reach the worker once it reads, all and in order."""
    ours, theirs = channel_pair()
    channel = Channel(ours, lambda message: None, lambda why: None)
    worker = ChannelSocket(theirs)
    total = 20_000
    for call in range(total):
        channel.send(Answer(call))
    received: list[Message] = []
    async with asyncio.timeout(5):
        while len(received) < total:
            received += worker.receive()
            await asyncio.sleep(0)
    assert received == [Answer(call) for call in range(total)]
    channel.close()
    worker.close()


async def test_nonsense_from_the_worker_ends_the_channel() -> None:
    """The gateway does not go on with a worker whose messages it cannot trust."""
    ours, theirs = channel_pair()
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    Channel(ours, lambda message: None, ended.set_result)
    theirs.send(b"\x07nonsense")
    async with asyncio.timeout(2):
        assert "unknown kind" in await ended
    theirs.close()
