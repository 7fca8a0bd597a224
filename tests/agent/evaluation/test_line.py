"""agent/evaluation: G.711, RTP, and what lies between mouth and agent, against other implementations of them."""

import numpy as np
import pytest

from agent.evaluation import g711, rtp
from agent.evaluation.schema import LineSettings
from agent.evaluation.surroundings import Leg, Surroundings
from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.training.synthetic.speech import LEVEL_DB
from telephony.call import Frame
from tests.peers import audio
from tests.peers import g711 as other_g711
from tests.peers import rtp as other_rtp


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_g711_is_that_of_others(codec: g711.Codec) -> None:
    """Every code, and every sample of 16 bits to within what the rounding of ties may differ."""
    codes, number = bytes(range(256)), g711.PAYLOAD_TYPES[codec]
    np.testing.assert_array_equal(g711.decode(codes, codec), other_g711.decode(codes, number))
    samples = np.arange(-32_768, 32_768).astype(np.int16)
    ours = g711.decode(g711.encode(samples, codec), codec).astype(int)
    theirs = other_g711.decode(other_g711.encode(samples, number), number).astype(int)
    np.testing.assert_array_equal(np.abs(ours - samples), np.abs(theirs - samples))


def test_packets_are_those_of_others() -> None:
    """What one builds the other reads, header fields and all."""
    sent = rtp.build(rtp.Stamp(7, 65_536 + 5, 2**32 + 160), 8, b"abc", marker=True)
    assert sent == other_rtp.build(8, 5, 160, 7, b"abc", marker=True)
    assert rtp.parse(sent) == rtp.Packet(8, 160, b"abc")


def test_headers_with_more_than_the_least_are_read() -> None:
    """Contributors, an extension and padding are no audio; RTCP and noise are no packets."""
    plain = other_rtp.build(0, 1, 160, 7, b"abcd")
    extended = bytes([0x80 | 0x20 | 0x10 | 1]) + plain[1:12] + b"cccc" + b"\0\0\0\1eeee" + b"abcd" + b"\0\2"
    assert rtp.parse(extended) == rtp.Packet(0, 160, b"abcd")
    assert rtp.parse(b"\x80\xc8" + plain[2:]) is None
    assert rtp.parse(b"\x80\0\0") is None
    assert rtp.parse(b"OPTIONS sip:somebody") is None


def test_a_key_is_pressed_for_a_tenth_of_a_second() -> None:
    """RFC 4733: durations that grow by 20 ms, the end told three times."""
    events = rtp.key_events("#")
    assert [event[0] for event in events] == [11] * 8
    assert [event[1] >> 7 for event in events] == [0] * 5 + [1] * 3
    assert [int.from_bytes(event[2:]) for event in events] == [160, 320, 480, 640, 800, 800, 800, 800]


def test_audio_lies_where_its_timestamps_say() -> None:
    """Late, swapped and lost packets do not move the others; a stream that begins anew lies where it came."""
    inlet, first = rtp.Inlet(), 2**32 - 160
    block = np.full(160, 100, np.int16)
    for number, at_s in ((0, 0.5), (2, 0.56), (1, 0.57), (4, 0.58)):
        inlet.put(at_s, (first + 160 * number) % 2**32, block * (number + 1))
    assert inlet.first_s == 0.5
    np.testing.assert_array_equal(inlet.samples(3_840, 1_120)[::160], [0, 100, 200, 300, 0, 500, 0])
    inlet.put(2.0, 77, block * 9)
    np.testing.assert_array_equal(inlet.samples(15_840, 480)[::160], [0, 900, 0])


def frames(samples: Frame) -> Frame:
    """As frames of 80 ms."""
    return samples.reshape(-1, FRAME_SAMPLES)


def test_the_echo_comes_so_late_and_so_loud_as_it_shall() -> None:
    """Beside what the caller says."""
    line = LineSettings.model_validate({"echo": {"level_db": -20, "delay_s": 0.15}})
    agent, caller = audio.noise(-20, 1.6, SAMPLE_RATE, 1), audio.noise(-50, 1.6, SAMPLE_RATE, 2)
    surroundings, sent = Surroundings(line, 0), []
    for mouth, ear in zip(frames(caller), frames(agent), strict=True):
        sent.append(surroundings.around(mouth))
        surroundings.hear(ear)
    rest = np.concatenate(sent).astype(int) - caller
    delay = round(0.15 * SAMPLE_RATE)
    assert np.abs(rest[:delay]).max() == 0
    assert np.abs(rest[delay:] - agent[:-delay] / 10).max() <= 1


def test_steady_noise_is_so_far_below_speech_as_it_shall() -> None:
    """All the time."""
    surroundings = Surroundings(LineSettings.model_validate({"noise": {"kind": "white", "snr_db": 20}}), 0)
    sent = np.concatenate([surroundings.around(np.zeros(FRAME_SAMPLES, np.int16)) for _ in range(150)])
    level = 20 * np.log10(np.sqrt(np.mean((sent / 32_768) ** 2)))
    assert level == pytest.approx(LEVEL_DB - 20, abs=0.5)


@pytest.mark.parametrize("codec", ["PCMU", "PCMA", "none"])
def test_a_leg_is_a_telephone_line(codec: str) -> None:
    """A sweep in its band comes through 4 ms later, with G.711's noise; one above does not. ``none`` is none."""
    leg = Leg(LineSettings.model_validate({"codec": codec}))
    tone = audio.sweep(400, 3_000, -10, 1.6, SAMPLE_RATE)
    heard = np.concatenate([leg.carry(frame) for frame in frames(tone)])
    match = audio.match(tone, heard, SAMPLE_RATE, skip_s=0.1)
    assert match.delay == pytest.approx(0 if codec == "none" else 0.004 * SAMPLE_RATE, abs=1)
    assert match.snr == pytest.approx(38, abs=4) if codec != "none" else match.snr > 60
    high = np.concatenate([leg.carry(frame) for frame in frames(audio.tone(6_000, -10, 1.6, SAMPLE_RATE))])
    assert (audio.level(high[SAMPLE_RATE // 4 :]) > -20) is (codec == "none")
