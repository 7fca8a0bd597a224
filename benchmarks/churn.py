"""A thousand short calls, ten per second: none may fail, and nothing may be left of them.

python -m benchmarks.churn [--calls 1000] [--rate 10]
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.table import machine, markdown
from tests.peers import audio, proc
from tests.peers.denwa import Denwa, denwa
from tests.peers.sipp import sipp

PORTION = 200
TALK_S = 0.3
SPEECH = audio.chirps(-15, 2.0, 8_000, seed=1)

Snapshot = dict[int, tuple[str, float, int]]
"""Kind, resident MB and open files by process id."""


def _snapshot(gateway: Denwa) -> Snapshot:
    return {
        pid: (kind, proc.memory(pid)[0], proc.open_files(pid)) for kind, pids in gateway.kinds().items() for pid in pids
    }


async def _churn(gateway: Denwa, calls: int, rate: float) -> None:
    """Make the calls, ``SippFailed`` if one of them fails, and wait until the last is over."""
    within_s = calls / rate * 1.5 + 30
    await sipp(
        *("talk", gateway.sip_port),
        **{"calls": calls, "rate": rate, "at_once": 50, "audio": SPEECH, "talk_s": TALK_S},
        within_s=within_s,
        trace=False,
    )
    await gateway.wait_health(within_s=10, calls=0)
    await asyncio.sleep(3)  # ports of ended calls are kept for a moment on purpose


async def bench(calls: int, rate: float) -> None:
    """Run and print the table."""
    with tempfile.TemporaryDirectory(prefix="churn-") as name:
        async with denwa(Path(name), sip={"max_calls": 24}) as gateway:
            fresh: dict[str, Any] = await gateway.health()
            snapshots = [_snapshot(gateway)]
            for first in range(0, calls, PORTION):
                await _churn(gateway, min(PORTION, calls - first), rate)
                snapshots.append(_snapshot(gateway))
            health = await gateway.health()
    counts = [*range(0, calls, PORTION), calls]
    rows = []
    for pid in sorted(set().union(*snapshots)):
        lives = [snapshot.get(pid) for snapshot in snapshots]
        kind = next(life[0] for life in lives if life)
        files = [life[2] for life in lives if life]
        rows.append([kind, pid, *[life[1] if life else "-" for life in lives], files[0], files[-1]])
    head = ["process", "pid", *[f"RSS MB after {count}" for count in counts], "files at first", "at last"]
    print(
        f"Machine: {machine()}. {calls} calls of {TALK_S} s with RTP, {rate:g} per second, through SIPp: none failed.\n"
    )
    print(markdown(head, rows))
    for key in ("free_lines", "free_slots", "calls"):
        print(f"\n{key}: {fresh[key]} before, {health[key]} after")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=10.0)
    options = parser.parse_args()
    asyncio.run(bench(options.calls, options.rate))


if __name__ == "__main__":
    main()
