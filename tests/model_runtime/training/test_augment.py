"""What befalls the caller's channel, told by levels and spectra."""

import warnings

import numpy as np
import pytest

from model_runtime.training.augment import Augmentation, add_echo, add_noise, augment, noise, reverb, speech_level
from model_runtime.training.telephone import PACKET, conceal, draw_losses, g711, telephone

RATE = 24_000


def db(ratio: float) -> float:
    """An amplitude in decibels."""
    return 20 * float(np.log10(max(ratio, 1e-9)))


def rms(audio: np.ndarray) -> float:
    """The amplitude of a sound."""
    return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))


def tone(hz: float, seconds: float = 1.0, rate: int = RATE, level: float = 0.2) -> np.ndarray:
    """A sine of an amplitude."""
    return (level * np.sqrt(2) * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def band(audio: np.ndarray, low: float, high: float) -> float:
    """The amplitude of what is between two frequencies."""
    spectrum = np.fft.rfft(audio)
    hz = np.fft.rfftfreq(len(audio), 1 / RATE)
    return float(np.sqrt(2 * np.sum(np.abs(spectrum[(hz >= low) & (hz < high)]) ** 2))) / len(audio)


def test_noise_is_as_far_below_speech_as_asked() -> None:
    """The signal-to-noise ratio is that of the speech, not of the pauses in it."""
    speech = np.concatenate([np.zeros(RATE, np.float32), tone(500)])
    for kind in ("white", "pink", "brown", "hum", "babble"):
        added = add_noise(speech, kind, 20, np.random.default_rng(0)) - speech  # type: ignore[arg-type]
        assert db(speech_level(speech) / rms(added)) == pytest.approx(20, abs=0.2)


def test_noises_have_their_colours() -> None:
    """From one octave to the next, white rises by 3 dB, pink stays, brown falls by 3 dB; hum is below 1 kHz."""
    for kind, step in (("white", 3), ("pink", 0), ("brown", -3)):
        made = noise(4 * RATE, kind, np.random.default_rng(1))  # type: ignore[arg-type]
        octaves = [db(band(made, hz, 2 * hz)) for hz in (500, 1000, 2000, 4000)]
        assert np.diff(octaves) == pytest.approx(step, abs=0.6)
    hum = noise(RATE, "hum", np.random.default_rng(1))
    assert band(hum, 20, 1000) > 5 * band(hum, 1000, 12_000)


def test_the_echo_is_the_agent_later_and_softer() -> None:
    """What is added is the agent's sound, to the sample."""
    agent = tone(300, level=0.3)
    heard = add_echo(np.zeros_like(agent), agent, 0.15, 0.1)
    assert not heard[:3600].any()
    np.testing.assert_allclose(heard[3600:], 0.1 * agent[:-3600], atol=1e-7)


def test_a_room_answers_and_fades() -> None:
    """A click is followed by a tail that falls by 60 dB in the room's time, is as loud as asked, and not late."""
    click = np.zeros(RATE, np.float32)
    click[1000] = 1
    heard = reverb(click, 0.4, np.random.default_rng(0))
    assert int(np.abs(heard).argmax()) == 1000
    assert np.abs(heard[:999]).max() < 1e-6
    early, late = rms(heard[1000 + 2400 : 1000 + 3600]), rms(heard[1000 + 7200 : 1000 + 8400])
    assert db(early / late) == pytest.approx(60 * (4800 / RATE) / 0.4, abs=3)
    assert rms(heard) == pytest.approx(rms(click), rel=0.1)


def test_g711_is_what_the_standard_library_does() -> None:
    """Both laws, value by value, as Python's own tables; a tone keeps 35 dB over its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import audioop
    codes = bytes(range(256))
    mu = np.frombuffer(audioop.ulaw2lin(codes, 2), np.int16)
    a = np.frombuffer(audioop.alaw2lin(codes, 2), np.int16)
    for law, values in (("mu", mu), ("a", a)):
        exact = (values / 32768).astype(np.float32)
        np.testing.assert_array_equal(g711(exact, law), exact)  # type: ignore[arg-type]
        told = g711(tone(440, level=0.1), law)  # type: ignore[arg-type]
        assert db(0.1 / rms(told - tone(440, level=0.1))) > 35


def test_a_telephone_has_its_band_and_its_clock() -> None:
    """What is within 300 to 3400 Hz passes in its place, what is outside does not."""
    passed = telephone(tone(1000), "mu")
    assert db(rms(passed[2000:-2000] - tone(1000)[2000:-2000]) / 0.2) < -30
    for hz in (50, 100, 4500, 8000):
        assert db(rms(telephone(tone(hz), "mu")[2000:-2000]) / 0.2) < -20
    assert db(rms(telephone(tone(3200), "a")[2000:-2000]) / 0.2) > -1


def test_losses_come_in_bursts() -> None:
    """As many packets are lost as asked, in bursts of the length asked."""
    lost = draw_losses(100_000, 0.1, 2.0, np.random.default_rng(0))
    assert lost.mean() == pytest.approx(0.1, abs=0.01)
    bursts = np.flatnonzero(np.diff(lost.astype(int)) == 1)
    assert lost.sum() / len(bursts) == pytest.approx(2.0, abs=0.1)
    assert not draw_losses(1000, 0.0, 1.5, np.random.default_rng(0)).any()


def test_a_gap_is_filled_with_what_was_said_and_fades() -> None:
    """One lost packet of a voiced sound is hardly missed; after 60 ms there is silence, and then it goes on."""
    voice = tone(125, 1.0, 8000)
    lost = np.zeros(50, np.bool_)
    lost[10] = True
    heard = conceal(voice, lost)
    gap = slice(10 * PACKET, 11 * PACKET)
    assert rms(heard[gap] - voice[gap]) < 0.3 * rms(voice[gap])
    lost[10:20] = True
    heard = conceal(voice, lost)
    assert rms(heard[gap]) > 0.7 * rms(voice[gap])
    assert not heard[13 * PACKET : 20 * PACKET].any()
    np.testing.assert_array_equal(heard[20 * PACKET + 32 :], voice[20 * PACKET + 32 :])


def test_the_same_seed_does_the_same() -> None:
    """All is decided by the generator, nothing is clipped beyond full scale, and lengths stay."""
    user, agent = tone(400), tone(200)
    everything = Augmentation(gain=1, noise=1, echo=1, reverb=1, telephone=1, loss=1)
    one, same, other = (augment(user, agent, everything, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.dtype == np.float32
    assert one.shape == user.shape
    assert np.abs(one).max() <= 1


def test_gain_is_in_the_papers_range() -> None:
    """Half of the examples are changed, by -24 to +15 dB."""
    only = Augmentation(noise=0, echo=0, reverb=0, telephone=0)
    levels = [
        db(rms(augment(tone(400, 0.1, level=0.01), tone(200, 0.1), only, np.random.default_rng(i))) / 0.01)
        for i in range(400)
    ]
    changed = [level for level in levels if abs(level) > 0.01]
    assert len(changed) == pytest.approx(200, abs=40)
    assert min(changed) >= -24.01
    assert max(changed) <= 15.01
    assert max(changed) - min(changed) > 36


def test_silence_stays_silent_without_noise() -> None:
    """A line that carries nothing carries nothing after it."""
    nothing = np.zeros(RATE, np.float32)
    heard = augment(
        nothing, nothing, Augmentation(noise=0, gain=1, reverb=1, telephone=1, loss=1), np.random.default_rng(0)
    )
    assert np.abs(heard).max() < 1e-3
