"""The model's step on the CPU: this runtime and the reference package in one run, over the same random weights.

Blocks of steps of one and of the other alternate, so that whatever else the machine does meets both. Every slot
takes part in every step, with the default sampling. The reference runs eager, as this runtime does on a CPU.

    python -m benchmarks.engine_cpu [--models small middle] [--batch 1 8] [--threads 1 2] [--seconds 6]
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final

import torch
from torch import Tensor, nn

from benchmarks.table import machine, markdown
from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig, SeanetConfig
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi, Sampling
from model_runtime.profile import fill_contexts
from model_runtime.tiny import tiny_language_model, tiny_mimi

BLOCK: Final = 10
"""Steps of one runtime before it is the other's turn."""
PARTS: Final = ("encode", "language model", "decode")
MIDDLE_MIMI: Final = MimiConfig(
    seanet=SeanetConfig(dimension=128, n_filters=16),
    num_heads=4,
    num_layers=4,
    dim_feedforward=512,
    codebook_dim=64,
    bins=1024,
    n_q=8,
)
MIDDLE_LM: Final = LanguageModelConfig(
    dim=512,
    num_heads=8,
    num_layers=8,
    context=750,
    text_card=8000,
    card=1024,
    depformer_dim=256,
    depformer_num_heads=8,
    depformer_num_layers=4,
    depformer_dim_feedforward=1056,
)


def models(name: str) -> tuple[Mimi, LanguageModel]:
    """The codec and the language model that the benchmark calls so, with random weights."""
    if name == "small":
        return tiny_mimi(), tiny_language_model()
    torch.manual_seed(1)
    mimi, lm = Mimi(MIDDLE_MIMI).eval().requires_grad_(False), LanguageModel(MIDDLE_LM).eval().requires_grad_(False)
    for parameter in (*mimi.parameters(), *lm.parameters()):
        if parameter.squeeze().dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    for name, tensor in list(mimi.named_buffers()):
        if name.endswith("embedding_sum"):
            tensor.normal_()
    mimi.load_state_dict(mimi.state_dict())  # refreshes the centroids
    return mimi, lm


class Watch:
    """Durations of the parts of steps, ms."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        started = time.perf_counter()
        yield
        self.parts[name].append((time.perf_counter() - started) * 1000)

    def step_ms(self) -> float:
        """The median whole step."""
        return median(self.steps)

    def part_ms(self, name: str) -> float:
        """The median of one part."""
        return median(self.parts[name])


class Ours:
    """Our side, with its parts timed where they are called."""

    def __init__(self, mimi: Mimi, lm: LanguageModel, slots: int) -> None:
        self.watch = Watch()
        self._moshi = Moshi(mimi, lm, slots)
        self._mask = torch.ones(slots, dtype=torch.bool)
        for slot in range(slots):
            self._moshi.reset(slot, Sampling(), slot)
        fill_contexts(self._moshi)  # the reference attends over its whole ring from the first step on
        self._encode, self._decode = mimi.encode_step, mimi.decode_step

    def step(self, audio: Tensor) -> None:
        """One step, its parts timed."""
        mimi, spent = self._moshi.mimi, 0.0

        def timed(part: str, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def run(*arguments: object) -> Tensor:
                nonlocal spent
                started = time.perf_counter()
                with self.watch.part(part):
                    result = call(*arguments)
                spent += time.perf_counter() - started
                return result

            return run

        mimi.encode_step, mimi.decode_step = timed("encode", self._encode), timed("decode", self._decode)
        started = time.perf_counter()
        self._moshi.step(audio, self._mask)
        whole = time.perf_counter() - started
        self.watch.steps.append(whole * 1000)
        self.watch.parts["language model"].append((whole - spent) * 1000)
        del mimi.encode_step, mimi.decode_step  # back to the methods of the class


class Theirs:
    """The reference package."""

    def __init__(self, mimi: Mimi, lm: LanguageModel, slots: int) -> None:
        from benchmarks.reference_moshi import ReferenceMoshi

        self.watch = Watch()
        self._reference = ReferenceMoshi(mimi, lm, slots)

    @torch.inference_mode()
    def step(self, audio: Tensor) -> None:
        """One step, its parts timed."""
        started = time.perf_counter()
        with self.watch.part("encode"):
            codes = self._reference.encode(audio)
        with self.watch.part("language model"):
            tokens = self._reference.generate(codes)
        with self.watch.part("decode"):
            self._reference.decode(tokens[:, 1:].clamp(min=0))
        self.watch.steps.append((time.perf_counter() - started) * 1000)


def measure(name: str, slots: int, threads: int, seconds: float) -> list[list[object]]:
    """The rows of the table for one model, batch and number of threads."""
    torch.set_num_threads(threads)
    mimi, lm = models(name)
    sides = (Ours(mimi, lm, slots), Theirs(mimi, lm, slots))
    audio = torch.randn(slots, 1, 1920, generator=torch.Generator().manual_seed(3)) * 0.1
    for side in sides:
        for _ in range(BLOCK):
            side.step(audio)
        side.watch = Watch()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for side in sides:
            for _ in range(BLOCK):
                side.step(audio)
    ours, theirs = (side.watch for side in sides)
    rows: list[list[object]] = []
    for part in ("whole step", *PARTS):
        mine = ours.step_ms() if part == "whole step" else ours.part_ms(part)
        other = theirs.step_ms() if part == "whole step" else theirs.part_ms(part)
        rows.append([name, slots, threads, part, f"{mine:.2f}", f"{other:.2f}", f"{other / mine:.2f}"])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("small", "middle"), default=["small", "middle"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], metavar="N")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--seconds", type=float, default=6.0, help="per row; default: %(default)s")
    parser.add_argument("--compiled", action="store_true", help="let the reference compile its norms, rope and gating")
    arguments = parser.parse_args()
    if not arguments.compiled:
        os.environ["NO_TORCH_COMPILE"] = "1"  # read when the package is imported
    print(f"{machine()}, torch {torch.__version__}; median ms per step\n")
    rows = [
        row
        for name in arguments.models
        for slots in arguments.batch
        for threads in arguments.threads
        for row in measure(name, slots, threads, arguments.seconds)
    ]
    print(markdown(["model", "batch", "threads", "part", "this runtime", "reference", "speed-up"], rows))


if __name__ == "__main__":
    main()
