"""The measuring tools, on signals whose figures are known."""

import numpy as np
import pytest

from tests.peers import audio, g711, rtp

RATE = 8_000


def test_a_tone_in_noise_has_its_level_and_snr() -> None:
    """A tone with noise 30 dB below it is measured so, though its frequency is off by some hertz."""
    clean = audio.tone(1_001.3, -10, 2.0, RATE)
    fitted = audio.fit_tone(clean + audio.noise(-40, 2.0, RATE, seed=1), RATE, 1_000)
    assert fitted.level == pytest.approx(-10, abs=0.05)
    assert fitted.snr == pytest.approx(30, abs=0.5)
    assert fitted.frequency == pytest.approx(1_001.3, abs=0.01)


def test_a_delay_between_samples_is_found() -> None:
    """A copy that is late by 40.4 samples and 6 dB lower is recognised as that."""
    signal = audio.noise(-20, 2.0, RATE, seed=2)
    spectrum = np.fft.rfft(signal) * np.exp(-2j * np.pi * np.fft.rfftfreq(signal.size) * 40.4) / 2
    found = audio.match(signal, np.fft.irfft(spectrum, signal.size).round().astype(np.int16), RATE, skip_s=0.1)
    assert found.delay == pytest.approx(40.4, abs=0.01)
    assert found.gain == pytest.approx(-6.02, abs=0.05)
    assert found.snr > 40


def test_a_dull_line_is_not_flat() -> None:
    """An average of two samples loses what a moving average loses."""
    sent = audio.sweep(250, 3_600, -10, 4.0, RATE)
    dull = ((sent.astype(int) + np.roll(sent, 1)) // 2).astype(np.int16)
    gains = audio.response(sent, dull, RATE, [float(edge) for edge in range(300, 3_401, 100)])
    expected = 20 * np.log10(np.cos(np.pi * 3_350 / RATE) / np.cos(np.pi * 1_050 / RATE))
    assert gains[-1] == pytest.approx(expected, abs=0.2)
    assert max(map(abs, audio.response(sent, sent, RATE, [300.0, 900.0, 1_100.0, 3_400.0]))) < 1e-6


@pytest.mark.parametrize("payload_type", [0, 8])
def test_g711_survives_itself(payload_type: int) -> None:
    """Every code decodes to a sample that encodes to it again, or to the other zero."""
    codes = bytes(range(256))
    again = g711.encode(g711.decode(codes, payload_type), payload_type)
    assert np.array_equal(g711.decode(again, payload_type), g711.decode(codes, payload_type))


def _stream(audio_samples: audio.Samples, delay_s: float) -> list[rtp.Packet]:
    payload = g711.encode(audio_samples, 0)
    return [
        rtp.Packet(number * 0.02 + delay_s, 0, number, number * 160, payload[number * 160 : number * 160 + 160])
        for number in range(len(payload) // 160)
    ]


def test_an_echo_has_its_latency_and_holes() -> None:
    """An echo 0.1037 s late, one packet of it silent, is measured as that."""
    noise = audio.noise(-20, 4.0, RATE, seed=3)
    delayed = np.concatenate([np.zeros(400, np.int16), noise[:-400]])  # 50 ms inside the stream, the rest on the way
    delayed[16_000:16_160] = 0
    returned = _stream(delayed, 0.0537)
    latencies = rtp.echo_latencies(_stream(noise, 0.0), returned)
    assert np.median(latencies) == pytest.approx(0.1037, abs=1e-4)
    assert rtp.underruns(returned) == 1
    assert rtp.gaps(returned).max() == pytest.approx(0.02)
