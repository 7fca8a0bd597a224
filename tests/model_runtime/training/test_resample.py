"""Resampling keeps the clock and the sound."""

import numpy as np
import pytest

from model_runtime.training.resample import resample


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_a_tone_stays_in_place(rate: int) -> None:
    """A 1 kHz tone at any rate is the same tone at 24 kHz, phase and all, 60 dB above the error."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    wanted = np.sin(2 * np.pi * 1000 * np.arange(24_000) / 24_000)
    made = resample(tone, rate, 24_000)
    assert made.shape == (24_000,)
    error = (made - wanted)[2000:-2000]
    assert 10 * np.log10(np.mean(wanted**2) / np.mean(error**2)) > 60


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    """A 6 kHz tone leaves nothing at 8 kHz: it is not folded to 2 kHz."""
    tone = np.sin(2 * np.pi * 6000 * np.arange(24_000) / 24_000).astype(np.float32)
    assert np.abs(resample(tone, 24_000, 8_000)[500:-500]).max() < 0.002


def test_channels_are_resampled_alone() -> None:
    """Two channels come out as each of them alone."""
    audio = np.random.default_rng(0).standard_normal((2, 800)).astype(np.float32)
    both = resample(audio, 8_000, 24_000)
    assert both.shape == (2, 2400)
    np.testing.assert_allclose(both[1], resample(audio[1], 8_000, 24_000), atol=1e-5)
