import pytest

from model_runtime.engine.step_times import BUCKETS_S, StepTimes


def test_p99_is_the_nearest_rank_of_the_window() -> None:
    """Of 100 steps the second longest is the 99th percentile: one hiccup is forgiven."""
    times = StepTimes(window_s=10, least_steps=100)
    for i in range(100):
        times.record(0.5 if i == 50 else 0.020 + i / 100_000, now=i / 100)
    assert times.p99_s(1.0) == pytest.approx(0.02099)


def test_p99_is_unknown_below_the_least_steps() -> None:
    """Too few steps tell nothing, nor do steps that lie behind the window."""
    times = StepTimes(window_s=10, least_steps=2)
    times.record(0.1, now=0.0)
    assert times.p99_s(0.0) is None
    times.record(0.1, now=5.0)
    assert times.p99_s(5.0) == 0.1
    assert times.p99_s(10.1) is None


def test_the_histogram_counts_every_step_once() -> None:
    """A step falls into the first bucket whose bound it does not exceed; the last bucket is open."""
    times = StepTimes()
    for duration in (0.001, 0.0011, 0.08, 7.0):
        times.record(duration, now=0.0)
    assert times.steps == 4
    assert times.total_s == pytest.approx(7.0821)
    assert times.counts[0] == times.counts[1] == times.counts[BUCKETS_S.index(0.08)] == times.counts[-1] == 1
