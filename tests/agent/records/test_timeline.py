"""agent/records/timeline.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.records.timeline import KEPT, Timeline
from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from telephony.call import Frame, LineTime, Said

RNG = np.random.default_rng(1)


def _frame() -> Frame:
    return RNG.integers(-30_000, 30_000, FRAME_SAMPLES).astype(np.int16)


class Naive:
    """The same, without bounds: every sample and every time it was sent, in dicts."""

    def __init__(self) -> None:
        self.samples: dict[int, int] = {}
        self.sent: dict[int, int] = {}

    def advance(self, at: LineTime) -> list[int]:
        """What was sent in this block."""
        out = [0] * FRAME_SAMPLES
        for said in at.said:
            for i in range(said.count):
                out[said.offset + i] = self.samples.get(said.position + i, 0)
                self.sent[said.position + i] = at.number * FRAME_SAMPLES + said.offset + i
        return out


Blocks = list[tuple[int, int, list[tuple[int, int, int]]]]

BLOCKS = st.lists(
    st.tuples(
        st.integers(0, 3),  # blocks lost before
        st.integers(0, 2),  # frames played before
        st.lists(st.tuples(st.integers(0, 480), st.integers(0, 960), st.integers(1, 960)), max_size=4),
    ),
    max_size=25,
)
"""Per block: lost, played, and the runs sent as silence before, samples skipped, length."""


@given(blocks=BLOCKS)
@settings(deadline=None, max_examples=60)
def test_it_is_what_a_list_of_all_samples_would_be(blocks: Blocks) -> None:
    """The sound sent, the times of samples and the blocks missed equal those of a model without bounds."""
    timeline, naive = Timeline(), Naive()
    played = sent = number = 0
    for lost, frames, runs in blocks:
        for _ in range(frames):
            frame = _frame()
            timeline.played(played, frame)
            naive.samples.update(enumerate(frame.tolist(), played))
            played += FRAME_SAMPLES
        said: list[Said] = []
        offset = 0
        for silence, skip, length in runs:
            offset, position = offset + silence, sent + skip
            count = min(length, FRAME_SAMPLES - offset, played - position)
            if count > 0:
                said.append(Said(offset, position, count))
                offset, sent = offset + count, position + count
        number += lost
        at = LineTime(number, 0.0, tuple(said))
        assert timeline.advance(at).tolist() == naive.advance(at)
        assert timeline.missed == lost
        number += 1
    for position in range(0, played + 100, 37):
        line = naive.sent.get(position)
        assert timeline.line_time(position) == (None if line is None else line / SAMPLE_RATE)
        if line is None:
            assert timeline.skipped(position) == (position < max(naive.sent, default=-1))
    assert timeline.now_s == pytest.approx(number * 0.08)


def test_a_click_is_where_it_was_sent() -> None:
    """A sample that was played at a position is in the block, at the offset, that the line told."""
    timeline = Timeline()
    clicks = [5, 1919, 1920, 70_000, 120_959, 120_960, 130_000]
    stream = np.zeros(70 * FRAME_SAMPLES, np.int16)
    stream[clicks] = 20_000
    sent = []
    for number in range(71):
        if number < 70:
            timeline.played(number * FRAME_SAMPLES, stream[number * FRAME_SAMPLES :][:FRAME_SAMPLES])
        said = (Said(480, number * FRAME_SAMPLES, 1440),) if number == 0 else ()
        if number:
            begin = number * FRAME_SAMPLES - 480
            said = (Said(0, begin, min(FRAME_SAMPLES, 70 * FRAME_SAMPLES - begin)),)
        sent.append(timeline.advance(LineTime(number, 0.0, said)))
    assert np.flatnonzero(np.concatenate(sent)).tolist() == [click + 480 for click in clicks]
    assert [timeline.line_time(click) for click in clicks] == [(click + 480) / SAMPLE_RATE for click in clicks]


def test_a_frame_is_found_by_its_first_sample_that_was_sent() -> None:
    """Where the beginning of a frame was taken out, its time is that of the rest; where all was, it has none."""
    timeline = Timeline()
    timeline.played(0, _frame())
    timeline.played(FRAME_SAMPLES, _frame())
    timeline.advance(LineTime(0, 0.0, (Said(0, 480, 1440),)))
    assert timeline.line_time(0) is None
    assert timeline.line_time(0, FRAME_SAMPLES) == 0.0
    assert timeline.skipped(0)
    assert timeline.line_time(FRAME_SAMPLES, FRAME_SAMPLES) is None
    assert not timeline.skipped(FRAME_SAMPLES)
    timeline.close()
    assert timeline.skipped(FRAME_SAMPLES)


def test_a_dropped_frame_never_was() -> None:
    """A frame for which ``play`` returned -1 is not kept, and its position is skipped."""
    timeline = Timeline()
    timeline.played(-1, _frame())
    assert timeline.line_time(-1) is None
    assert timeline.skipped(-1)
    assert timeline.sent_until == 0.0


def test_what_is_older_than_five_seconds_is_silence() -> None:
    """Audio that waited longer than is kept is gone: silence, and skipped."""
    timeline = Timeline()
    for position in range(0, 2 * KEPT, FRAME_SAMPLES):
        timeline.played(position, np.full(FRAME_SAMPLES, 7, np.int16))
    sent = timeline.advance(LineTime(0, 0.0, (Said(0, KEPT - 960, 1920),)))
    assert sent.tolist() == [0] * 960 + [7] * 960
    assert timeline.skipped(0)
    assert not timeline.skipped(2 * KEPT - 1)


def test_a_long_call_stays_small() -> None:
    """An hour with an underrun in every block keeps two minutes of runs; an hour without one keeps a single run."""
    broken, whole = Timeline(), Timeline()
    for number in range(45_000):
        position = number * FRAME_SAMPLES
        broken.advance(LineTime(number, 0.0, (Said(10, number * 1900, 1900),)))
        whole.advance(LineTime(number, 0.0, (Said(0, position, FRAME_SAMPLES),)))
    assert len(broken._runs) <= 1502
    assert len(whole._runs) == 1
    assert whole.line_time(5) == 5 / SAMPLE_RATE
    assert broken.line_time(5) is None
    assert broken.line_time(44_000 * 1900) == (44_000 * 1920 + 10) / SAMPLE_RATE
