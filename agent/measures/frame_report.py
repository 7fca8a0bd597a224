"""A call's frame trace as text, from its rows (frame_trace.py). Pure; the command line prints it."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from agent.measures.frame_trace import STAGES, Row

LABELS: Final = {
    "receive": "line worker to gateway",
    "send": "gateway, on the way in",
    "worker_net": "to the model worker and back",
    "worker_wait": "waiting for the step before",
    "step": "the model's step",
    "answer": "gateway, on the way out",
    "playout": "playout FIFO, to the line",
    "total": "together",
}
"""What each stage, and ``total``, is called where people read it."""


def table(rows: Sequence[Row], worst: int = 10) -> str:
    """How long each stage took, and the ``worst`` slowest frames, in ms. Ends without a newline."""
    if not rows:
        return "no frame so far"
    lines = [_summary_head(rows), ""]
    lines.append(f"{'stage, ms':<30}{'frames':>7}{'median':>9}{'p90':>9}{'p99':>9}{'max':>9}")
    for name in (*STAGES, "total"):
        values = sorted(value for row in rows if (value := row.get(f"{name}_ms")) is not None)
        figures = [f"{_quantile(values, q):>9.2f}" if values else f"{'-':>9}" for q in (0.5, 0.9, 0.99, 1.0)]
        lines.append(f"{LABELS[name]:<30}{len(values):>7}{''.join(figures)}")
    slowest = sorted((row for row in rows if row["total_ms"] is not None), key=_total, reverse=True)[:worst]
    if slowest:
        lines += ["", f"{'the slowest, ms':<19}" + "".join(f"{name:>12}" for name in (*STAGES, "total"))]
        lines += [_slow(row) for row in slowest]
    return "\n".join(lines)


def _slow(row: Row) -> str:
    """One frame on a line, each stage in its column."""
    values = [row[f"{name}_ms"] for name in (*STAGES, "total")]
    return f"at {row['at_s']:.2f} s".ljust(19) + "".join(f"{'-' if ms is None else f'{ms:.2f}':>12}" for ms in values)


def _summary_head(rows: Sequence[Row]) -> str:
    unanswered = sum(row["step_ms"] is None for row in rows)
    unplayed = sum(row["total_ms"] is None for row in rows) - unanswered
    lost = sum(_number(later) - _number(row) - 1 for row, later in pairwise(rows))
    return (
        f"{len(rows)} frames of 80 ms, from {rows[0]['at_s']} to {rows[-1]['at_s']} s after the answer: "
        f"{unanswered} without an answer, {unplayed} more not played so far, {lost} lost on their way from the line"
    )


def _number(row: Row) -> int:
    return int(row["number"] or 0)


def _total(row: Row) -> float:
    return row["total_ms"] or 0.0


def _quantile(values: Sequence[float], q: float) -> float:
    """The nearest rank."""
    return values[max(0, math.ceil(q * len(values)) - 1)]
