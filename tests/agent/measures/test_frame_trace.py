import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest

from agent.measures.frame_plot import plot
from agent.measures.frame_report import table
from agent.measures.frame_trace import STAGES, FrameTrace, Row
from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE, TICK_S
from telephony.call import LineTime, Said
from telephony.playout import Playout

BASE = 5_000.0
RECEIVE, SEND, NET, ANSWER = 0.0005, 0.0007, 0.002, 0.0003
TICK = round(TICK_S * SAMPLE_RATE)
SVG = "{http://www.w3.org/2000/svg}"


class Line:
    """A line with a real playout FIFO and a model whose steps take as long as the test says; no clock runs."""

    def __init__(self, trace: FrameTrace, step_s: Callable[[int], float | None]) -> None:
        self.trace = trace
        self.step_s = step_s
        self.playout = Playout(SAMPLE_RATE)
        self.under_way: list[tuple[float, int]] = []
        self.position = 0
        self.went_out: dict[int, float] = {}
        """When the first sample of each frame given to the line went out, by its position."""

    def run(self, blocks: range, lost: range = range(0)) -> None:
        """Let the blocks' time pass; those that are ``lost`` never reach the gateway."""
        for number in blocks:
            said = self._tick_through(BASE + (number - 1) * FRAME_S)
            if number in lost:
                continue
            at = LineTime(number, BASE + number * FRAME_S, said)
            received = at.captured_at + RECEIVE
            self.trace.said(at)
            self.trace.sent(at, received, received + SEND)
            step_s = self.step_s(number)
            if step_s is None:
                continue
            answered = received + SEND + NET + 0.001 + step_s
            self.trace.answered(at.captured_at, 1.0, step_s * 1000, answered, answered + ANSWER, self.position)
            self.under_way.append((answered + ANSWER, self.position))
            self.position += FRAME_SAMPLES

    def _tick_through(self, begins: float) -> tuple[Said, ...]:
        """Pull the four ticks of a block that began then; return what was said in it."""
        said = []
        for tick in range(4):
            now = begins + tick * TICK_S
            while self.under_way and self.under_way[0][0] <= now:
                _, position = self.under_way.pop(0)
                self.playout.push(np.ones(FRAME_SAMPLES, np.int16), position)
            self.playout.pull()
            for run in self.playout.said:
                said.append(Said(tick * TICK + run.offset, run.position, run.count))
                for first in range(
                    -(-run.position // FRAME_SAMPLES) * FRAME_SAMPLES, run.position + run.count, FRAME_SAMPLES
                ):
                    self.went_out[first] = now + (run.offset + first - run.position) / SAMPLE_RATE
        return tuple(said)


def traced(step_s: Callable[[int], float | None], count: int = 100, lost: range = range(0)) -> tuple[Line, list[Row]]:
    """A line that has run for so many blocks, and its rows."""
    line = Line(FrameTrace(), step_s)
    line.run(range(count), lost)
    return line, line.trace.rows()


def test_every_stage_is_told() -> None:
    """Each stage of each frame is what it was, and together they are the frame's time from the line to the line."""
    line, rows = traced(lambda number: 0.018 + 0.001 * (number % 5))
    assert [row["number"] for row in rows] == list(range(100))
    for row in rows[:-2]:
        assert row["receive_ms"] == pytest.approx(1000 * RECEIVE, abs=0.01)
        assert row["send_ms"] == pytest.approx(1000 * SEND, abs=0.01)
        assert row["worker_net_ms"] == pytest.approx(1000 * NET, abs=0.01)
        assert row["worker_wait_ms"] == 1.0
        assert row["step_ms"] == pytest.approx(18 + (row["number"] or 0) % 5)
        assert row["answer_ms"] == pytest.approx(1000 * ANSWER, abs=0.01)
        position = row["position"]
        assert isinstance(position, int)
        expected = (line.went_out[position] - BASE - (row["number"] or 0) * FRAME_S) * 1000
        assert row["total_ms"] == pytest.approx(expected, abs=0.01)
        assert sum(row[f"{name}_ms"] or 0 for name in STAGES) == pytest.approx(row["total_ms"], abs=0.01)
    assert rows[-1]["total_ms"] is None


def test_a_slow_step_shows_in_its_stage() -> None:
    """A step of 70 ms is the slowest frame of the table, and what waits behind it shows in the playout."""
    _, rows = traced(lambda number: 0.07 if number == 40 else 0.015)
    assert max(rows, key=lambda row: row["step_ms"] or 0)["number"] == 40
    text = table(rows, worst=1)
    assert text.splitlines()[-1].startswith(f"at {40 * FRAME_S:.2f} s")
    assert " 70.00 " in text.splitlines()[-1]


def test_frames_without_an_answer_keep_their_gap() -> None:
    """A frame that no model answered, and blocks that were lost, do not shift what belongs to the others."""
    line, rows = traced(lambda number: None if number % 10 == 7 else 0.02, lost=range(50, 53))
    assert len(rows) == 97
    for row in rows[:-2]:
        number = row["number"] or 0
        assert (row["step_ms"] is None) == (number % 10 == 7)
        if row["position"] is not None:
            assert row["total_ms"] is None or row["total_ms"] < 200
    known = [row for row in rows if row["total_ms"] is not None]
    assert len(known) >= 0.9 * sum(row["position"] is not None for row in rows)
    for row in known:
        position = row["position"]
        assert isinstance(position, int)
        if position in line.went_out and line.went_out[position] < BASE + 49 * FRAME_S:
            out_s = line.went_out[position] - BASE - (row["number"] or 0) * FRAME_S
            assert row["total_ms"] == pytest.approx(out_s * 1000, abs=0.01)
    assert "8 without an answer" not in table(rows)
    assert "10 without an answer" in table(rows)
    assert "3 lost on their way" in table(rows)


def test_an_answer_without_audio_is_not_played() -> None:
    """Where the model's answer came too late to be played, its frame has a step and no playout."""
    trace = FrameTrace()
    trace.sent(LineTime(0, BASE), BASE, BASE)
    trace.answered(BASE, 1.0, 2.0, BASE + 0.01, BASE + 0.01, -1)
    (row,) = trace.rows()
    assert (row["step_ms"], row["position"], row["answer_ms"], row["total_ms"]) == (2.0, None, None, None)


def test_a_frame_whose_beginning_was_cut_out_is_timed_by_what_is_left() -> None:
    """Where the playout took out a frame's first samples, the frame goes out with the first that are left."""
    trace = FrameTrace()
    for number in range(2):
        at = LineTime(number, BASE + number * FRAME_S)
        trace.sent(at, at.captured_at, at.captured_at)
        trace.answered(at.captured_at, 0.0, 0.0, at.captured_at, at.captured_at, number * FRAME_SAMPLES)
    trace.said(LineTime(2, BASE + 2 * FRAME_S, (Said(0, 0, 1_000), Said(1_000, 2_400, 900))))
    first, second = trace.rows()
    assert first["total_ms"] == pytest.approx(80)
    assert second["total_ms"] == pytest.approx(1000 * 1_000 / SAMPLE_RATE, abs=0.01)


def test_the_ring_keeps_the_last_frames() -> None:
    """After more frames than it keeps, the last ones are there, with nothing of those they replaced."""
    line = Line(FrameTrace(50), lambda number: 0.02 if number < 130 else None)
    line.run(range(140))
    rows = line.trace.rows()
    assert [row["number"] for row in rows] == list(range(90, 140))
    assert all(row["step_ms"] is not None for row in rows[:40])
    assert all(row[f"{name}_ms"] is None for row in rows[40:] for name in STAGES[2:])
    assert {row["position"] for row in rows[40:]} == {None}


def test_it_costs_little() -> None:
    """All that is noted of a frame takes less than 30 µs (about 2.5 where nothing else runs)."""
    times = [
        LineTime(n, BASE + n * FRAME_S, (Said(0, n * 1_920 - 2_880, 960), Said(960, n * 1_920 - 1_920, 960)))
        for n in range(3_000)
    ]
    best = 1.0
    for _ in range(5):
        trace = FrameTrace()
        began = time.perf_counter()
        for at in times:
            trace.said(at)
            trace.sent(at, at.captured_at, at.captured_at)
            trace.answered(at.captured_at, 1.0, 2.0, at.captured_at, at.captured_at, at.number * 1_920)
        best = min(best, (time.perf_counter() - began) / len(times))
    assert best < 30e-6


def test_rows_survive_json() -> None:
    """What the API sends is what the command line draws: rows are JSON, and table and plot take them back."""
    _, rows = traced(lambda number: None if number == 3 else 0.02)
    again = json.loads(json.dumps(rows, allow_nan=False))
    assert table(again) == table(rows)
    assert plot(again) == plot(rows)


def test_the_table_has_a_line_per_stage() -> None:
    """Each stage has its median, p90, p99 and max; of nothing it says so."""
    _, rows = traced(lambda number: 0.010 + 0.0001 * number)
    (line,) = (line for line in table(rows).splitlines() if line.startswith("the model's step"))
    assert line.split()[-5:] == ["100", "14.90", "18.90", "19.80", "19.90"]
    assert table([]) == "no frame so far"


def test_the_plot_shows_every_stage_to_scale() -> None:
    """The picture is well-formed: a colour per stage, a line at 80 ms, both axes, and areas inside of them."""
    _, rows = traced(lambda number: 0.02, lost=range(50, 53))
    root = ET.fromstring(plot(rows, "Call <1> & more"))
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert "Call <1> & more" in texts
    assert "80 ms, one frame" in texts
    assert "seconds since the answer" in texts
    areas = list(root.iter(f"{SVG}polygon"))
    assert len({area.get("fill") for area in areas}) == len(STAGES)
    assert len(areas) == 2 * len(STAGES)  # two runs, before and after the blocks that were lost
    for area in areas:
        for point in area.get("points", "").split():
            x, y = map(float, point.split(","))
            assert 62 <= x <= 871
            assert 44 <= y <= 408


def test_the_plot_marks_what_is_beyond_the_scale() -> None:
    """One frame of seconds does not flatten the rest: it is marked, with its time as its title."""
    rows: list[Row] = traced(lambda number: 0.02, 300)[1][:290]
    rows[100] = rows[100] | {"playout_ms": 3_000.0, "total_ms": 3_024.0}
    root = ET.fromstring(plot(rows))
    assert [element.text for element in root.iter(f"{SVG}title")] == ["3024 ms"]
    assert "100" in [element.text for element in root.iter(f"{SVG}text")]
    ET.fromstring(plot([]))
