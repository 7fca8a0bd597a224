import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.audio import SAMPLE_RATE
from telephony.resample import Resampler

RATES = [8_000, 16_000, 48_000]
PAIRS = [(rate, SAMPLE_RATE) for rate in RATES] + [(SAMPLE_RATE, rate) for rate in RATES]


def _tone(rate: int, frequency: float, seconds: float = 0.8) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    return np.round(10_000 * np.sin(2 * np.pi * frequency * t)).astype(np.int16)


def _fit(samples: np.ndarray, rate: int, frequency: float) -> tuple[float, float]:
    """Level in dB against 10,000, and SNR in dB, of a tone."""
    t = np.arange(samples.size) / rate
    basis = np.stack([np.sin(2 * np.pi * frequency * t), np.cos(2 * np.pi * frequency * t)], 1)
    x = samples.astype(np.float64)
    weights, *_ = np.linalg.lstsq(basis, x, rcond=None)
    rest = x - basis @ weights
    return 20 * np.log10(np.hypot(*weights) / 10_000), 10 * np.log10((basis @ weights).var() / rest.var())


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
@given(blocks=st.lists(st.integers(1, 20), min_size=1, max_size=12))
@settings(deadline=None, max_examples=25)
def test_n_samples_in_are_exactly_n_out(rate_in: int, rate_out: int, blocks: list[int]) -> None:
    """A primed resampler holds nothing back: 20 ms in are 20 ms out, in the very call."""
    resampler = Resampler(rate_in, rate_out)
    for block in blocks:
        n = block * rate_in // 50
        assert resampler.push(np.zeros(n, np.int16)).size == n * rate_out // rate_in


@pytest.mark.parametrize(("rate_in", "rate_out"), PAIRS)
def test_blocks_do_not_show(rate_in: int, rate_out: int) -> None:
    """The output is the same whatever the blocks the input came in."""
    stream = _tone(rate_in, 700)
    whole = Resampler(rate_in, rate_out).push(stream)
    resampler = Resampler(rate_in, rate_out)
    pieces = [resampler.push(piece) for piece in np.split(stream, 40)]
    assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("rate", [8_000, 16_000])
@pytest.mark.parametrize("frequency", [300, 1_000, 3_400])
def test_there_and_back_is_flat_over_the_telephone_band(rate: int, frequency: int) -> None:
    """300 to 3,400 Hz go to the model's rate and back within 0.2 dB, at 45 dB SNR or more."""
    inward, outward = Resampler(rate, SAMPLE_RATE), Resampler(SAMPLE_RATE, rate)
    back = outward.push(inward.push(_tone(rate, frequency)))
    level, snr = _fit(back[rate // 10 : -rate // 10], rate, frequency)
    assert abs(level) < 0.2
    assert snr > 45


def test_equal_rates_pass_through() -> None:
    """Audio at the model's own rate is not touched."""
    block = _tone(SAMPLE_RATE, 440)
    assert Resampler(SAMPLE_RATE, SAMPLE_RATE).push(block) is block


def test_an_unmeasured_pair_is_refused() -> None:
    """A pair of rates without known priming would delay frames unseen: it raises."""
    with pytest.raises(ValueError, match="no priming known"):
        Resampler(11_025, SAMPLE_RATE)
