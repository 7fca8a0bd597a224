"""The model that Denwa answers with by default: the step of so many calls on so many cores, and how soon it answers.

A row is a process of its own, pinned to its cores. All calls step together, with full contexts and the sampling of the
shipped agent, as the engine steps them but for its clock: one step after the other. ``--paced`` makes one every 80 ms,
as in calls; caches are colder then. The start is that of `denwa serve` with the shipped configuration, until every
model is up, until a call is answered, and until its caller hears something.

    python -m benchmarks.front_desk [--rows 1x1 4x2] [--threads N] [--steps 1500] [--paced] [--starts 3]

Rows are CALLSxCORES; ``--starts 0`` leaves the start out.
"""

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.table import machine, markdown
from config.audio import FRAME_S, FRAME_SAMPLES
from config.load import default_path, load
from model_runtime.checkpoint import load_moshi
from model_runtime.embedded import FRONT_DESK
from model_runtime.engine.model import SamplingOptions
from model_runtime.engine.moshi_model import MoshiModel
from model_runtime.profile import fill_contexts
from tests.peers import audio, rtp
from tests.peers.caller import call
from tests.peers.denwa import denwa

WARM_UP: Final = 20
HEARD_DB: Final = -45.0
LISTEN_S: Final = 5.0
SILENCE: Final = np.zeros(8_000, np.int16)


def step_ms(calls: int, cores: int, threads: int, steps: int, *, paced: bool) -> list[float]:
    """The durations of steps of so many calls, ms."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(threads)
    moshi, tokenizer = load_moshi(FRONT_DESK, "cpu", torch.float32, calls)
    model = MoshiModel(moshi, tokenizer)
    sampling = load(default_path(), {}).agents["front-desk"].sampling.model_dump(exclude={"seed"})
    for slot in range(calls):
        model.reset(slot, SamplingOptions(**sampling), slot)
    fill_contexts(moshi)
    heard = np.random.default_rng(1).integers(-3000, 3000, (100, calls, FRAME_SAMPLES)).astype(np.int16)
    everyone = np.ones(calls, np.bool_)
    times = []
    due = time.perf_counter()
    for step in range(WARM_UP + steps):
        started = time.perf_counter()
        model.step(heard[step % 100], everyone)
        times.append((time.perf_counter() - started) * 1000)
        due = max(due + FRAME_S, time.perf_counter())
        if paced:
            time.sleep(due - time.perf_counter() if due > time.perf_counter() else 0)
    return times[WARM_UP:]


async def start_s() -> tuple[float, float, float | None]:
    """Seconds from `denwa serve` until all models are up, a call is answered, and it is heard (None: not in 5 s)."""
    with tempfile.TemporaryDirectory(prefix="front-desk-") as name:
        began = time.monotonic()
        async with denwa(Path(name), shipped=True) as gateway:
            up = time.monotonic()
            async with call(gateway.server, "100", SILENCE) as caller:
                answered = time.monotonic()
                await asyncio.sleep(LISTEN_S)
            heard = next((each.at for each in caller.heard if audio.level(rtp.samples([each])) > HEARD_DB), None)
    return up - began, answered - began, None if heard is None else heard - began


def measure(rows: list[tuple[int, int]], threads: int | None, steps: int, *, paced: bool) -> str:
    """The table of the steps; ``threads`` of torch, by default as many as cores."""
    spawn = multiprocessing.get_context("spawn")
    lines: list[list[object]] = []
    for calls, cores in rows:
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            times = process.submit(step_ms, calls, cores, threads or cores, steps, paced=paced).result()
        shown = (*np.percentile(times, (50, 95, 99)), max(times))
        late = sum(each > FRAME_S * 1000 for each in times)
        lines.append([calls, cores, threads or cores, len(times), *(f"{each:.2f}" for each in shown), late])
    return markdown(["calls", "cores", "threads", "steps", "p50 ms", "p95", "p99", "max", "over 80 ms"], lines)


def _row(text: str) -> tuple[int, int]:
    calls, _, cores = text.partition("x")
    return int(calls), int(cores)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=_row, default=[(1, 1), (4, 2)], metavar="CALLSxCORES")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch; default: as many as cores")
    parser.add_argument("--steps", type=int, default=1_500, help="default: %(default)s")
    parser.add_argument("--paced", action="store_true", help="one step every 80 ms")
    parser.add_argument("--starts", type=int, default=3, help="default: %(default)s")
    arguments = parser.parse_args()
    print(f"{machine()}, torch {torch.__version__}, {FRONT_DESK}, float32\n")
    if arguments.rows:
        print(measure(arguments.rows, arguments.threads, arguments.steps, paced=arguments.paced))
    starts = [asyncio.run(start_s()) for _ in range(arguments.starts)]
    if starts:
        shown = [["-" if each is None else f"{each:.1f}" for each in start] for start in starts]
        print("\n" + markdown(["all models up, s", "call answered", "call heard"], shown))


if __name__ == "__main__":
    main()
