"""How a benchmark shows its figures: markdown, with the machine they come from."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path


def machine() -> str:
    """The machine in one line."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    name = models[0] if models else platform.machine()
    return f"{len(models)} x {name}, {pages:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; floats with one digit behind the point."""
    texts = [list(head), ["---"] * len(head)]
    texts += [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in texts)
