"""A model worker whose model says known words at known frames, each a tone that begins with its word's frame.

    python -m tests.peers.scripted_worker --listen HOST:PORT

The worker, its protocol and its engine are the product's; the model alone is a double: it has no voice but the tone,
and does not listen.
"""

import argparse
import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import numpy as np
import uvicorn
from numpy.typing import NDArray

from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.engine.engine import Engine
from model_runtime.engine.model import Beginning, Samples, SamplingOptions, StepOutput
from model_runtime.worker.app import Worker, create_app
from model_runtime.worker.protocol import MAX_OPEN_BYTES
from tests.peers.audio import tone
from tests.peers.denwa import ROOT
from tests.peers.processes import end, free_port
from tests.peers.workers import until_it_answers

SLOTS: Final = 4
TONE_S: Final = 0.06
PIECES: Final = [" one", " two", " thr", "ee", " four", " five", ",", " six", " sev", "en", " eight", " nine", " ten."]
"""Text tokens, over and over; those that begin a word have a tone."""
STEPS_BETWEEN: Final = (4, 7, 3, 9, 5, 4, 6, 11, 3, 5, 8)
"""From one word's step to the next, over and over; what goes on with a word comes in the step after it."""
STALL_STEPS: Final = (60, 108)
"""Steps that take too long, so that the line runs dry and words come late."""
STALL_S: Final = 0.3
STEP_S: Final = 0.01
"""What every step takes: a model whose steps take no time hands on after a stall what no real one does at once."""


def script(steps: int) -> dict[int, str]:
    """The text of each step that has one."""
    said: dict[int, str] = {}
    step = 5
    for number in range(steps):
        piece = PIECES[number % len(PIECES)]
        if piece.startswith(" ") and number:
            step += STEPS_BETWEEN[number % len(STEPS_BETWEEN)]
        said[step if piece.startswith(" ") else step + 1] = piece
        if step >= steps:
            break
    return said


class ScriptedModel:
    """Says the script in every slot, from the slot's first step on."""

    slots = SLOTS
    caller_text_delay_s = 0.0

    def __init__(self) -> None:
        self._steps = [0] * SLOTS
        self._script = script(10_000)
        self._tone = np.zeros(FRAME_SAMPLES, np.int16)
        self._tone[: round(TONE_S * SAMPLE_RATE)] = tone(750.0, -6.0, TONE_S, SAMPLE_RATE)

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Begin the script anew."""
        self._steps[slot] = 0

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """The same: it has no prompts and no past."""
        self.reset(slot, sampling, seed)
        return iter(())

    def force(self, slot: int, text: str) -> None:
        """It says nothing but its script."""

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Say the next step of the script."""
        said = np.zeros_like(audio)
        text = [""] * SLOTS
        for slot in np.flatnonzero(mask):
            step = self._steps[slot]
            self._steps[slot] += 1
            text[slot] = self._script.get(step, "")
            if text[slot].startswith(" "):
                said[slot] = self._tone
            if step in STALL_STEPS:
                time.sleep(STALL_S)
        time.sleep(STEP_S)
        return StepOutput(said, text, np.empty((SLOTS, 0), np.int64), np.zeros(SLOTS, np.bool_), [""] * SLOTS)


@asynccontextmanager
async def scripted_worker() -> AsyncIterator[str]:
    """Run the worker as a process of its own while the context lasts; gives its URL once it answers."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.peers.scripted_worker", "--listen", f"127.0.0.1:{port}"), cwd=ROOT
    )
    try:
        url = f"ws://127.0.0.1:{port}"
        await until_it_answers(url, process, lambda: "the scripted worker does not start")
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await end(process)


async def _serve(listener: socket.socket) -> None:
    """As model_runtime/worker/serve.py does."""
    engine = Engine(ScriptedModel())
    config = uvicorn.Config(
        create_app(Worker("scripted", engine)),
        http="h11",
        ws="websockets-sansio",
        ws_max_size=MAX_OPEN_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    engine.start()
    try:
        await uvicorn.Server(config).serve(sockets=[listener])
    finally:
        engine.close()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    host, port = parser.parse_args().listen.rsplit(":", 1)
    with socket.create_server((host, int(port))) as listener:
        asyncio.run(_serve(listener))


if __name__ == "__main__":
    main()
