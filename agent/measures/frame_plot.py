"""A call's frame trace as a picture, from its rows (frame_trace.py): SVG, written by hand. Pure."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Final

from agent.measures.frame_report import LABELS
from agent.measures.frame_trace import STAGES, Row
from config.audio import FRAME_S

_COLOURS: Final = ("#4e79a7", "#76b7b2", "#b07aa1", "#edc948", "#e15759", "#9c755f", "#59a14f")
_WIDTH: Final = 1_100
_HEIGHT: Final = 460
_LEFT: Final = 62
_RIGHT: Final = 230
_TOP: Final = 44
_BOTTOM: Final = 52
_PLOT_WIDTH: Final = _WIDTH - _LEFT - _RIGHT
_PLOT_HEIGHT: Final = _HEIGHT - _TOP - _BOTTOM
_FRAME_MS: Final = FRAME_S * 1000
_STEPS: Final = (1, 2, 5)
_LEAST_MS: Final = 100.0
"""The scale goes at least to here, so that the line at 80 ms is always seen."""
_OUTLIERS: Final = 0.01
"""Frames that may stick out of the scale; each is marked."""


def plot(rows: Sequence[Row], title: str = "") -> str:
    """A stacked area over the call's time, a colour for each stage; ``rows`` as ``FrameTrace.rows`` gives them."""
    known = [row for row in rows if row["total_ms"] is not None]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title or "Where each frame spent its time")}</text>',
    ]
    if known:
        scale = _Scale(known)
        parts += [*_areas(known, scale), *_axes(scale), *_outliers(known, scale)]
    else:
        parts.append(f'<text x="{_LEFT}" y="{_TOP + 40}">No frame has gone all the way so far.</text>')
    parts += [*_legend(), "</svg>"]
    return "\n".join(parts) + "\n"


class _Scale:
    """Turns seconds and milliseconds into places on the picture."""

    def __init__(self, rows: Sequence[Row]) -> None:
        totals = sorted(_value(row, "total_ms") for row in rows)
        most = totals[max(0, math.ceil((1 - _OUTLIERS) * len(totals)) - 1)]
        self.first_s = _value(rows[0], "at_s")
        self.last_s = max(_value(rows[-1], "at_s"), self.first_s + FRAME_S)
        self.step_ms = _round_step(max(_LEAST_MS, most * 1.15) / 6)
        self.most_ms = self.step_ms * math.ceil(max(_LEAST_MS, most * 1.15) / self.step_ms)

    def x(self, at_s: float) -> float:
        return round(_LEFT + _PLOT_WIDTH * (at_s - self.first_s) / (self.last_s - self.first_s), 1)

    def y(self, ms: float) -> float:
        return round(_TOP + _PLOT_HEIGHT * (1 - min(max(ms, 0.0), self.most_ms) / self.most_ms), 1)


def _areas(rows: Sequence[Row], scale: _Scale) -> Iterator[str]:
    """One polygon per stage for each unbroken run of frames."""
    for run in _runs(rows):
        below = [0.0] * len(run)
        xs = [scale.x(_value(row, "at_s")) for row in run]
        if len(run) == 1:  # a frame alone is a bar of its width
            xs, run, below = [xs[0], scale.x(_value(run[0], "at_s") + FRAME_S)], [run[0]] * 2, [0.0] * 2
        for name, colour in zip(STAGES, _COLOURS, strict=True):
            above = [low + max(0.0, _value(row, f"{name}_ms")) for low, row in zip(below, run, strict=True)]
            upper = [f"{x},{scale.y(ms)}" for x, ms in zip(xs, above, strict=True)]
            lower = [f"{x},{scale.y(ms)}" for x, ms in zip(xs, below, strict=True)]
            yield f'<polygon points="{" ".join(upper + lower[::-1])}" fill="{colour}"/>'
            below = above


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows whose blocks follow one another."""
    run = [rows[0]]
    for before, row in pairwise(rows):
        if _value(row, "number") != _value(before, "number") + 1:
            yield run
            run = []
        run.append(row)
    yield run


def _axes(scale: _Scale) -> Iterator[str]:
    right, bottom = _LEFT + _PLOT_WIDTH, _TOP + _PLOT_HEIGHT
    for tick in range(round(scale.most_ms / scale.step_ms) + 1):
        ms = tick * scale.step_ms
        y = scale.y(ms)
        yield f'<line x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="black" stroke-opacity="0.15"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{ms:g}</text>'
    step_s = _round_step((scale.last_s - scale.first_s) / 8)
    first = math.ceil(scale.first_s / step_s)
    for tick in range(first, math.floor(scale.last_s / step_s) + 1):
        x = scale.x(tick * step_s)
        yield f'<line x1="{x}" y1="{bottom}" x2="{x}" y2="{bottom + 5}" stroke="black"/>'
        yield f'<text x="{x}" y="{bottom + 19}" text-anchor="middle">{tick * step_s:g}</text>'
    yield f'<path d="M{_LEFT},{_TOP}V{bottom}H{right}" fill="none" stroke="black"/>'
    y = scale.y(_FRAME_MS)
    yield f'<path d="M{_LEFT},{y}H{right}" stroke="black" stroke-width="1.5" stroke-dasharray="6 4"/>'
    yield f'<text x="{right + 6}" y="{y + 4}">80 ms, one frame</text>'
    middle = _LEFT + _PLOT_WIDTH / 2
    yield f'<text x="{middle:g}" y="{_HEIGHT - 12}" text-anchor="middle">seconds since the answer</text>'
    yield (
        f'<text transform="translate(16 {_TOP + _PLOT_HEIGHT / 2:g}) rotate(-90)" text-anchor="middle">'
        "ms since the block left the line</text>"
    )


def _outliers(rows: Sequence[Row], scale: _Scale) -> Iterator[str]:
    for row in rows:
        if (total := _value(row, "total_ms")) > scale.most_ms:
            x = scale.x(_value(row, "at_s"))
            yield f'<path d="M{x - 4:g},{_TOP}h8l-4,-7z" fill="#c00"><title>{total:.0f} ms</title></path>'


def _legend() -> Iterator[str]:
    x = _WIDTH - _RIGHT + 24
    for index, (name, colour) in enumerate(zip(reversed(STAGES), reversed(_COLOURS), strict=True)):
        y = _TOP + _PLOT_HEIGHT - 20 * (len(STAGES) - index)
        yield f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 18}" y="{y + 10}">{escape(LABELS[name])}</text>'
    y = _TOP + _PLOT_HEIGHT + 19
    yield f'<text x="{x}" y="{y}" fill="#c00">▲ <tspan fill="black">beyond the scale</tspan></text>'


def _round_step(least: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((power * step for step in _STEPS if power * step >= least * 0.999), power * 10)


def _value(row: Row, name: str) -> float:
    return row[name] or 0.0
