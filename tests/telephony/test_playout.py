import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.call import Said
from telephony.playout import Playout

RATE = 8_000
TICK = RATE // 50
FRAME = 4 * TICK
LIMIT = FRAME + 2 * TICK


def _ramp(start: int, n: int) -> np.ndarray:
    return np.arange(start, start + n, dtype=np.int16)


def test_audio_comes_out_in_order_and_whole() -> None:
    """A frame pushed is pulled in four ticks, unchanged."""
    playout = Playout(RATE)
    playout.push(_ramp(1, FRAME))
    assert np.array_equal(np.concatenate([playout.pull() for _ in range(4)]), _ramp(1, FRAME))
    assert (playout.underruns, playout.trimmed, len(playout)) == (0, 0, 0)


def test_silence_before_the_first_audio_is_no_underrun() -> None:
    """An agent that has not begun to speak owes nothing."""
    playout = Playout(RATE)
    assert not playout.pull().any()
    assert playout.underruns == 0


def test_a_tick_without_audio_is_silence_and_counted() -> None:
    """Once audio flows, a tick that finds less than 20 ms is filled up with silence and counted."""
    playout = Playout(RATE)
    playout.push(_ramp(1, TICK // 2))
    tick = playout.pull()
    assert np.array_equal(tick[: TICK // 2], _ramp(1, TICK // 2))
    assert not tick[TICK // 2 :].any()
    playout.pull()
    assert playout.underruns == 2


def test_a_pause_ends_the_count() -> None:
    """On hold, and when the model is lost, silence is no underrun, until audio flows again."""
    playout = Playout(RATE)
    playout.push(_ramp(1, TICK))
    playout.pull()
    playout.pause()
    playout.pull()
    assert playout.underruns == 0
    playout.push(_ramp(1, TICK))
    playout.pull()
    playout.pull()
    assert playout.underruns == 1


def test_clear_forgets_what_waits() -> None:
    """What waited before a hold is not heard after it."""
    playout = Playout(RATE)
    playout.push(_ramp(1, FRAME))
    playout.clear()
    assert not playout.pull().any()
    assert (len(playout), playout.underruns) == (0, 0)


def test_what_is_too_much_is_taken_out_of_the_quiet() -> None:
    """Trimming spares what is loud: the two loud ticks are heard whole, the silence between them is shortened."""
    playout = Playout(RATE)
    loud = np.full(TICK, 9_000, np.int16)
    playout.push(np.concatenate([loud, np.zeros(6 * TICK, np.int16), loud]))
    assert len(playout) == LIMIT
    assert playout.trimmed == 2 * TICK
    heard = np.concatenate([playout.pull() for _ in range(6)])
    assert np.count_nonzero(heard == 9_000) == 2 * TICK


def test_a_cut_leaves_no_step() -> None:
    """In a steady tone the seam is cross-faded: no jump larger than the fade and the tone make."""
    playout = Playout(RATE)
    tone = np.round(10_000 * np.sin(2 * np.pi * 210 * np.arange(2 * FRAME) / RATE)).astype(np.int16)
    playout.push(tone)
    heard = np.concatenate([playout.pull() for _ in range(6)]).astype(int)
    steepest = np.abs(np.diff(tone.astype(int))).max() + 2 * 10_000 // (RATE // 500)
    assert np.abs(np.diff(heard)).max() <= steepest


@pytest.mark.parametrize("rate", [8_000, 16_000])
@given(st.lists(st.one_of(st.none(), st.integers(0, 3_000)), max_size=40))
def test_what_waits_is_bounded_and_accounted_for(rate: int, steps: list[int | None]) -> None:
    """Never more than a frame and 40 ms waits, and every sample pushed is pulled, waiting, or counted as trimmed."""
    playout = Playout(rate)
    pushed = pulled = 0
    for step in steps:
        if step is None:
            pulled += min(len(playout), rate // 50)
            assert playout.pull().shape == (rate // 50,)
        else:
            playout.push(np.zeros(step, np.int16))
            pushed += step
        assert len(playout) <= rate * 120 // 1_000
        assert pushed == pulled + len(playout) + playout.trimmed


def _segments(said: list[Said]) -> list[tuple[int, int]]:
    """Position and count of runs that follow each other without a gap, joined."""
    segments: list[tuple[int, int]] = []
    for run in said:
        if segments and sum(segments[-1]) == run.position:
            segments[-1] = (segments[-1][0], segments[-1][1] + run.count)
        else:
            segments.append((run.position, run.count))
    return segments


@pytest.mark.parametrize("rate", [8_000, 16_000])
@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 3_000), st.sampled_from([0, 0, 0, 640]))), max_size=40))
def test_what_was_given_out_is_told_exactly(rate: int, steps: list[tuple[int, int] | None]) -> None:
    """The runs of every pull are the very samples pushed, in order and once, but for the fade after a cut.

    Samples lost on their way shift nothing; where no run is, there is silence.
    """
    stream = np.random.default_rng(0).integers(1, 32_000, 200_000).astype(np.int16)
    playout = Playout(rate)
    position = 0
    heard: list[np.ndarray] = []
    said: list[Said] = []
    for step in [*steps, *[None] * 6]:
        if step is not None:
            size, lost = step
            position += lost
            playout.push(stream[position : position + size], position)
            position += size
            continue
        tick = playout.pull()
        end = 0
        for run in playout.said:
            assert not tick[end : run.offset].any()
            end = run.offset + run.count
            assert run.count > 0
            heard.append(tick[run.offset : end])
        assert end <= tick.size
        assert not tick[end:].any()
        said += playout.said
    audio = np.concatenate([np.empty(0, np.int16), *heard])
    begin = 0
    last = -1
    for at, count in _segments(said):
        assert at > last
        last = at + count - 1
        faded = rate // 500
        same = audio[begin : begin + count] == stream[at : at + count]
        assert same[faded:].all()
        begin += count
    assert begin == audio.size
    assert len(playout) == 0


@given(st.lists(st.one_of(st.none(), st.integers(0, 1_500)), max_size=40))
def test_runs_at_16_khz_are_whole_at_24_khz(steps: list[int | None]) -> None:
    """Whatever is cut, runs begin and end on even samples, which 24 kHz has too."""
    playout = Playout(16_000)
    for step in steps:
        if step is None:
            playout.pull()
            assert all(number % 2 == 0 for run in playout.said for number in (run.offset, run.position, run.count))
        else:
            playout.push(np.ones(2 * step, np.int16))


def test_what_was_taken_out_is_in_no_run() -> None:
    """A cut shows as a gap between two runs, as long as the cut."""
    playout = Playout(RATE)
    loud = np.full(TICK, 9_000, np.int16)
    playout.push(np.concatenate([loud, np.zeros(6 * TICK, np.int16), loud]))
    said = []
    for _ in range(6):
        playout.pull()
        said += playout.said
    (_, before), (after, count) = _segments(said)
    assert after - before == 2 * TICK
    assert after + count == 8 * TICK


def test_silence_has_no_position() -> None:
    """Before audio, in an underrun and after a clear nothing was said; numbers go on where they were."""
    playout = Playout(RATE)
    playout.pull()
    assert playout.said == ()
    playout.push(_ramp(1, TICK + 10))
    playout.pull()
    playout.pull()
    assert playout.said == (Said(0, TICK, 10),)
    playout.push(_ramp(1, FRAME))
    playout.clear()
    playout.pull()
    assert playout.said == ()
    playout.push(_ramp(1, TICK))
    playout.pull()
    assert playout.said == (Said(0, TICK + 10 + FRAME, TICK),)


def test_a_late_frame_does_not_make_the_call_later_for_ever() -> None:
    """Two ticks that nobody has needed for two seconds shrink to one, and that one stays."""
    playout = Playout(RATE)
    playout.push(_ramp(1, 2 * TICK))
    for _ in range(100):
        playout.push(_ramp(1, FRAME))
        for _ in range(4):
            playout.pull()
    assert (len(playout), playout.trimmed, playout.underruns) == (TICK, TICK, 0)
