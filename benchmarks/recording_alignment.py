"""Whether a long call's recording stays aligned: with the wire, and its two channels with each other.

Callers send click tracks to the echo, whose calls are recorded: 24 kHz FLAC. For each click, what the wire, the frame
trace and the recording say of it is compared (tests/peers/alignment.py). "Offset" is how much later the left channel
has a click than the right one, "left off" how much later the left channel has it than the wire had it. Each is the
median over a minute, at the beginning and at the end of the call; the worst is that of a single click.

    python -m benchmarks.recording_alignment [--minutes 10] [--calls 1]
"""

import argparse
import asyncio
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.table import machine, markdown
from tests.peers import clicks, rtp
from tests.peers.alignment import Alignment, align, watched
from tests.peers.caller import call
from tests.peers.clicks import Times
from tests.peers.denwa import Denwa, denwa

AGENT = {"model": "echo", "recording": {"enabled": True}}
STAGGER_S = 0.537

HEAD = [
    *("call", "clicks", "lost", "not echoed", "offset ms, first minute", "last minute", "predicted, first", "last"),
    *(
        "from predicted, median",
        "p99",
        "worst",
        "left off ms, first",
        "last",
        "worst",
        "outside the line ms, first",
        "last",
    ),
    *("underruns", "trimmed", "longest gap on the wire ms", "file s", "call s"),
]


async def _measure(gateway: Denwa, number: int, seconds: float) -> tuple[Alignment, dict[str, Any], float]:
    audio, times = clicks.track(seconds + 5, seed=number)
    await asyncio.sleep(number * STAGGER_S)
    async with call(gateway.server, "recorded", audio) as caller, watched(gateway, caller) as watch:
        await asyncio.sleep(seconds + 1)
        if caller.ended.is_set():
            raise RuntimeError(f"call {number} was dropped")
    (record,) = [each for each in await gateway.wait_records(1, within_s=30) if each["id"] == watch.call_id]
    alignment = await asyncio.to_thread(align, caller, times, Path(record["recording"]), watch, seconds)
    return alignment, record, float(rtp.gaps(caller.heard).max())


def _row(number: int, alignment: Alignment, record: dict[str, Any], gap_s: float, seconds: float) -> list[object]:
    minute = max(1, round(alignment.offset.size * 60 / seconds))

    def ends(values: Times) -> list[object]:
        return [float(np.nanmedian(part) * 1000) for part in (values[:minute], values[-minute:])]

    def worst(values: Times) -> float:
        return float(np.nanmax(np.abs(values)) * 1000)

    def spread(values: Times) -> list[object]:
        return [float(each) for each in np.nanpercentile(np.abs(values) * 1000, (50, 99, 100))]

    up = (datetime.fromisoformat(record[name]) for name in ("ended_at", "answered_at"))
    line = record["rtp"]
    return [
        *(
            number,
            alignment.offset.size,
            alignment.lost,
            alignment.not_echoed,
            *ends(alignment.offset),
            *ends(alignment.echoed),
        ),
        *(*spread(alignment.offset_off), *ends(alignment.left_off), worst(alignment.left_off)),
        *(*ends(alignment.outside), line["underruns"], line["trimmed"], 1000 * gap_s),
        soundfile.info(record["recording"]).duration,
        (next(up) - next(up)).total_seconds(),
    ]


async def bench(minutes: float, calls: int) -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory(prefix="recording-alignment-") as name:
        async with denwa(Path(name), agents={"recorded": AGENT}) as gateway:
            found = await asyncio.gather(*[_measure(gateway, number, 60 * minutes) for number in range(calls)])
        rows = [_row(number, *each, 60 * minutes) for number, each in enumerate(found)]
    print(f"Machine: {machine()}. {calls} recorded calls of {minutes:g} minutes to the echo.\n")
    print(markdown(HEAD, rows))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--calls", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(bench(options.minutes, options.calls))


if __name__ == "__main__":
    main()
