"""How often which time was measured, as a picture: SVG, written by hand. Pure."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

_WIDTH: Final = 720
_HEIGHT: Final = 300
_LEFT: Final = 52
_RIGHT: Final = 24
_TOP: Final = 40
_BOTTOM: Final = 50
_COLOURS: Final = ("#4e79a7", "#e15759", "#9c755f")
_BIN_S: Final = 0.08
"""A frame: nothing that the agent does is finer."""
_BINS_MOST: Final = 60


def histogram(title: str, series: Sequence[tuple[str, Sequence[float]]], bounds_s: Sequence[float] = ()) -> str:
    """Bars for each named series of times in s, side by side; a dashed line at each bound.

    What is beyond sixty frames from the least is counted in the last bar.
    """
    values = [value for _, times in series for value in times]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
    ]
    if values:
        first = math.floor(min([*values, 0.0]) / _BIN_S)
        last = min(math.floor(max([*values, *bounds_s]) / _BIN_S), first + _BINS_MOST)
        parts += _bars(series, first, last)
        parts += [_bound(bound, first, last) for bound in bounds_s if bound / _BIN_S <= last + 1]
    else:
        parts.append(f'<text x="{_LEFT}" y="{_TOP + 40}">Nothing was measured.</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bars(series: Sequence[tuple[str, Sequence[float]]], first: int, last: int) -> list[str]:
    bins = last - first + 1
    counts = [[0] * bins for _ in series]
    for row, (_, times) in zip(counts, series, strict=True):
        for value in times:
            row[min(max(math.floor(value / _BIN_S) - first, 0), bins - 1)] += 1
    most = max(max(row) for row in counts)
    bottom, height = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    width = (_WIDTH - _LEFT - _RIGHT) / bins
    parts = []
    for number, (row, (name, times)) in enumerate(zip(counts, series, strict=True)):
        bar = width * 0.9 / len(series)
        for place, count in enumerate(row):
            if count:
                x, high = _LEFT + place * width + number * bar, height * count / most
                parts.append(
                    f'<rect x="{x:.1f}" y="{bottom - high:.1f}" width="{bar:.1f}" height="{high:.1f}" '
                    f'fill="{_COLOURS[number % len(_COLOURS)]}"/>'
                )
        x = _LEFT + 300 + 130 * number
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{x + 18}" y="24">{escape(name)} ({len(times)})</text>')
    parts.append(f'<path d="M{_LEFT},{_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="black"/>')
    parts.append(f'<text x="{_LEFT - 8}" y="{_TOP + 8}" text-anchor="end">{most}</text>')
    for place in range(0, bins + 1, max(1, bins // 8)):
        x = _LEFT + place * width
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{(first + place) * _BIN_S:.2f}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:g}" y="{_HEIGHT - 12}" text-anchor="middle">seconds</text>')
    return parts


def _bound(bound_s: float, first: int, last: int) -> str:
    x = _LEFT + (bound_s / _BIN_S - first) * (_WIDTH - _LEFT - _RIGHT) / (last - first + 1)
    return f'<path d="M{x:.1f},{_TOP}V{_HEIGHT - _BOTTOM}" stroke="black" stroke-dasharray="6 4"/>'
