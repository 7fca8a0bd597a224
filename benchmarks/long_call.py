"""A call of half an hour, as fast as the machine allows: the memory over it, and what a step costs at its end.

One slot, stepped as the engine steps it. The model is the smallest there is: what could grow does not depend on its
size. Its ring of 250 steps goes round ninety times. At the end its steps alternate, in blocks, with those of a call of
one minute on the same weights, so that whatever else the machine does meets both.

    python -m benchmarks.long_call [--minutes 30] [--pins 0]
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.table import machine, markdown
from config.audio import FRAME_RATE, FRAME_SAMPLES
from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig, SeanetConfig
from model_runtime.engine.model import SamplingOptions
from model_runtime.engine.moshi_model import MoshiModel
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi
from model_runtime.text import TextTokenizer
from model_runtime.tiny import TOKENIZER

MIMI = MimiConfig(
    seanet=SeanetConfig(dimension=16, n_filters=2),
    num_heads=2,
    num_layers=1,
    dim_feedforward=32,
    codebook_dim=8,
    bins=32,
    n_q=2,
)
LM = LanguageModelConfig(
    dim=32,
    num_heads=2,
    num_layers=1,
    context=250,
    text_card=320,
    card=32,
    n_q=4,
    dep_q=2,
    delays=(0, 0, 1, 0, 1),
    depformer_dim=16,
    depformer_num_heads=2,
    depformer_num_layers=1,
    depformer_dim_feedforward=64,
)
MINUTE = round(60 * FRAME_RATE)
BLOCK = 10
BLOCKS = 60


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class Call:
    """One call on a model of its own."""

    def __init__(self, mimi: Mimi, lm: LanguageModel, pins: int) -> None:
        self._model = MoshiModel(Moshi(mimi, lm, 1, pins), TextTokenizer(TOKENIZER))
        self._model.reset(0, SamplingOptions(), 1)
        self._audio = np.random.default_rng(1).integers(-3000, 3000, (100, 1, FRAME_SAMPLES)).astype(np.int16)
        self._mask = np.ones(1, np.bool_)
        self.steps = 0

    def talk(self, steps: int) -> list[float]:
        """Step so many times; the time of each, ms."""
        times = []
        for _ in range(steps):
            started = time.perf_counter()
            self._model.step(self._audio[self.steps % 100], self._mask)
            times.append((time.perf_counter() - started) * 1000)
            self.steps += 1
        return times


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--pins", type=int, default=0, help="steps of the prompt that stay in sight")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    mimi, lm = Mimi(MIMI, codebooks=2), LanguageModel(LM)
    long, short = Call(mimi, lm, arguments.pins), Call(mimi, lm, arguments.pins)
    short.talk(MINUTE)
    rows = []
    for minute in range(1, arguments.minutes + 1):
        long.talk(MINUTE)
        if minute in (1, 2, 3) or minute % 5 == 0:
            rows.append([str(minute), f"{resident_mb():.1f}"])
    both: tuple[list[float], list[float]] = ([], [])
    for _ in range(BLOCKS):
        for times, call in zip(both, (short, long), strict=True):
            times += call.talk(BLOCK)
    print(machine())
    print(markdown(["minute", "resident, MB"], rows))
    early, late = (median(times) for times in both)
    print(
        f"step p50 after 1 minute {early:.2f} ms, after {arguments.minutes} minutes {late:.2f} ms: {late / early:.3f}"
    )


if __name__ == "__main__":
    main()
