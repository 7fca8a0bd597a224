"""What a run says of itself: CSV files that outlive it, a bar while it runs, plots where matplotlib is installed.

Written by the first process alone.
"""

import csv
import importlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_LOG: Final = logging.getLogger(__name__)


class CsvLog:
    """One row of numbers per step; a resumed run drops the rows of steps that it does again."""

    def __init__(self, path: Path, first_step: int = 0) -> None:
        self._path = path
        self._rows = [row for row in read_rows(path) if int(row["step"]) <= first_step]
        self._columns = list(self._rows[0]) if self._rows else []
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            self._write(file, self._rows, header=True)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of a step; every row has those of the first one."""
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        first = not self._columns
        if first:
            self._columns = list(row)
        with self._path.open("a", newline="") as file:
            self._write(file, [row], header=first)

    def _write(self, file: Any, rows: list[dict[str, str]], *, header: bool) -> None:
        if not self._columns:
            return
        writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Progress:
    """A bar with the latest losses, and samples above it; lines in the log where tqdm is not installed."""

    def __init__(self, first_step: int, steps: int, *, shown: bool = True) -> None:
        self._bar: Any = None
        self._shown = shown
        self._steps = steps
        if shown:
            try:
                tqdm = importlib.import_module("tqdm").tqdm
            except ImportError:
                return
            self._bar = tqdm(total=steps, initial=first_step, unit="step", file=sys.stderr, dynamic_ncols=True)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """One step is done."""
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        elif self._shown:
            _LOG.info("step %d of %d: %s", step, self._steps, text)

    def say(self, text: str) -> None:
        """Show a text for good."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._shown:
            _LOG.info("%s", text)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def plot(folder: Path) -> Path:
    """Draw ``train.csv`` and ``held_out.csv`` of a run's folder to ``losses.png``.

    Raises ``RuntimeError`` with the line that installs matplotlib, where it is missing.
    """
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise RuntimeError("plots need a package more: pip install 'denwa[train]' (matplotlib)") from error
    train, held_out = read_rows(folder / "train.csv"), read_rows(folder / "held_out.csv")
    names = [name for name in (train[0] if train else {}) if name not in ("step", "seconds")]
    figure, axes = pyplot.subplots(len(names), 1, figsize=(8, 2.5 * len(names)), sharex=True, squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        for rows, label in ((train, "train"), (held_out, "held out")):
            points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
            if points:
                axis.plot(*zip(*points, strict=True), label=label)
        axis.set_ylabel(name)
        axis.legend()
    axes[-1, 0].set_xlabel("step")
    path = folder / "losses.png"
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    return path
