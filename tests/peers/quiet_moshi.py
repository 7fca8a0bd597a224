"""A model worker whose tiny Moshi says what it is given to say, and otherwise nothing.

A Moshi of random weights babbles without end, so a caller is never met with silence. This one is made reticent (its
text is PAD), and its audio is silenced outside of greetings and forced texts; all else is the product's own worker.
Unrealistic in that a trained model answers the caller.
"""

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.schema import ModelSettings
from model_runtime.engine.model import Beginning, Model, Samples, SamplingOptions, StepOutput
from model_runtime.worker import serve
from model_runtime.worker.models import load_model
from tests.peers.processes import end, free_port
from tests.peers.workers import until_it_answers

ROOT = Path(__file__).parents[2]
START_S = 60.0
SETTINGS = {"kind": "moshi", "checkpoint": "random:tiny"}


class QuietMoshi:
    """A model that is heard only while it says what it was given."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._before = np.zeros(model.slots, np.bool_)
        self.slots = model.slots
        self.caller_text_delay_s = model.caller_text_delay_s

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Begin, reticent."""
        self._model.reset(slot, _reticent(sampling), seed)

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """Begin, reticent."""
        return self._model.begin(slot, _reticent(sampling), seed, beginning)

    def force(self, slot: int, text: str) -> None:
        """Say it."""
        self._model.force(slot, text)

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """The model's step; a frame of audio was drawn partly in the step before, so one more is let through."""
        out = self._model.step(audio, mask)
        heard = out.scripted | self._before
        self._before = np.where(mask, out.scripted, self._before)
        return dataclasses.replace(out, audio=np.where(heard[:, None], out.audio, np.int16(0)))


@asynccontextmanager
async def quiet_moshi(slots: int, log: Path) -> AsyncIterator[str]:
    """Run a worker, its output in a file; returns its URL."""
    port = free_port()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.peers.quiet_moshi", str(port), str(slots)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
        )
    try:
        url = f"ws://127.0.0.1:{port}"
        await until_it_answers(url, process, log.read_text)
        yield url
    finally:
        if process.returncode is None:
            process.kill()
        await end(process)


def _reticent(sampling: SamplingOptions) -> SamplingOptions:
    return dataclasses.replace(sampling, pad_bias=100.0)


def _main(port: str, slots: str) -> None:
    settings = ModelSettings.model_validate(SETTINGS | {"slots": int(slots)})
    serve.load_model = lambda of: QuietMoshi(load_model(of))
    serve.serve_worker("quiet", settings, listen=("127.0.0.1", int(port)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
