"""A call of half an hour, as fast as the machine allows: the time of a step and the memory, minute by minute.

One slot, stepped as the engine steps it. The model is the smallest there is: what could grow does not depend on its
size. Its ring of 250 steps goes round ninety times.

    python -m benchmarks.long_call [--minutes 30] [--pins 0]
"""

import argparse
import time
from pathlib import Path
from statistics import median, quantiles

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


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--pins", type=int, default=0, help="steps of the prompt that stay in sight")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    moshi = Moshi(Mimi(MIMI, codebooks=2), LanguageModel(LM), 1, arguments.pins)
    model = MoshiModel(moshi, TextTokenizer(TOKENIZER))
    model.warm_up()
    model.reset(0, SamplingOptions(), 1)
    random = np.random.default_rng(1)
    audio = random.integers(-3000, 3000, (100, 1, FRAME_SAMPLES)).astype(np.int16)
    mask = np.ones(1, np.bool_)
    rows, medians = [], []
    for minute in range(1, arguments.minutes + 1):
        times = []
        for n in range(round(60 * FRAME_RATE)):
            started = time.perf_counter()
            model.step(audio[n % 100], mask)
            times.append((time.perf_counter() - started) * 1000)
        medians.append(median(times))
        if minute in (1, 2, 3) or minute % 5 == 0:
            p99 = quantiles(times, n=100)[98]
            rows.append([str(minute), f"{medians[-1]:.2f}", f"{p99:.2f}", f"{resident_mb():.1f}"])
    print(machine())
    print(markdown(["minute", "step p50, ms", "step p99, ms", "resident, MB"], rows))
    first, last = median(medians[1:4]), median(medians[-3:])
    print(f"last three minutes over minutes 2 to 4: {last / first:.3f}")


if __name__ == "__main__":
    main()
