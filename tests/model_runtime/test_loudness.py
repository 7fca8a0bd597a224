import numpy as np
import pytest

from model_runtime.loudness import loudness, normalise


def tone(level: float, seconds: float = 3.0, rate: int = 24_000) -> np.ndarray:
    """A sine of 997 Hz with a peak of ``level`` dBFS."""
    time = np.arange(round(seconds * rate)) / rate
    return (10 ** (level / 20) * np.sin(2 * np.pi * 997 * time)).astype(np.float32)


@pytest.mark.parametrize("rate", [24_000, 48_000])
@pytest.mark.parametrize("level", [0.0, -23.0])
def test_the_standards_calibration(level: float, rate: int) -> None:
    """997 Hz at full scale measures -3.01 LUFS on one channel (BS.1770-4), and a level goes through as it is."""
    assert loudness(tone(level, rate=rate), rate) == pytest.approx(level - 3.01, abs=0.05)


def test_pauses_do_not_count() -> None:
    """Silence between words is gated out, so the same speech with pauses measures the same."""
    with_pauses = np.concatenate([tone(-20), np.zeros(72_000, np.float32), tone(-20)])
    assert loudness(with_pauses) == pytest.approx(loudness(tone(-20)), abs=0.4)


def test_normalise() -> None:
    """The result has the loudness asked for; silence stays what it is."""
    assert loudness(normalise(tone(-5), -24.0)) == pytest.approx(-24, abs=0.05)
    assert not normalise(np.zeros(24_000, np.float32), -24.0).any()
