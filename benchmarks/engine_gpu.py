"""The model's step on a GPU, at the published 7B size with random weights that are made on the device.

Runs by itself on a bare machine with torch, numpy, safetensors and sentencepiece: no checkpoint, no telephony, no
network. Prints markdown tables, each as soon as it is measured, and stops starting new ones after ``--minutes``.

    python -m benchmarks.engine_gpu [--parts graphs kv int8 eager reference] [--batch 1 8 64] [--minutes 9]
    python -m benchmarks.engine_gpu --tiny      # a few seconds, on the CPU too: does it run?
"""

import argparse
import gc
import os
import time
from typing import Final

import torch

from benchmarks.table import machine, markdown
from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig
from model_runtime.kernels.int8 import quantize_
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.mimi.quantizer import Codebook
from model_runtime.moshi import Moshi
from model_runtime.profile import Profile, bench_table, calls_that_fit, measure_copy_rate, percentile, profile
from model_runtime.tiny import TINY_LM, TINY_MIMI

PARTS: Final = ("graphs", "kv", "int8", "eager", "reference")
BATCHES: Final = (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
LIMIT_S: Final = 20.0
"""For one row of a table."""
SPARE: Final = 6 * 2**30
"""Bytes kept for activations and graphs."""


def random_mimi(config: MimiConfig, device: torch.device) -> Mimi:
    """A codec with random weights, made on the device."""
    with torch.device("meta"):
        mimi = Mimi(config)
    mimi = mimi.to_empty(device=device).eval().requires_grad_(False)
    fill(mimi)
    for book in mimi.modules():
        if isinstance(book, Codebook):
            book._initialized.fill_(1)
            book.cluster_usage.fill_(1)
            book.embedding_sum.normal_()
            book.refresh()
    return mimi


def random_language_model(config: LanguageModelConfig, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """A language model with random weights, made on the device."""
    with torch.device("meta"):
        lm = LanguageModel(config).to(dtype)
    lm = lm.to_empty(device=device).eval().requires_grad_(False)
    fill(lm)
    return lm


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Draw matrices at a scale that keeps signals alive; everything else is one, or zero where it is added."""
    for name, parameter in module.named_parameters():
        if parameter.squeeze().dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


class Bench:
    """What all parts share: the device, the models, the clock."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self.steps = arguments.steps
        self.batches = arguments.batch
        self.config = TINY_LM if arguments.tiny else LanguageModelConfig(context=arguments.context)
        self.mimi = random_mimi(TINY_MIMI if arguments.tiny else MimiConfig(), self.device)
        self.lm = random_language_model(self.config, self.device, self.dtype)
        self.copy_rate = measure_copy_rate(self.device)
        self._end = time.monotonic() + arguments.minutes * 60

    @property
    def over(self) -> bool:
        """Whether no further measurement is to be started."""
        return time.monotonic() > self._end

    def free(self) -> int | None:
        """Bytes that slots may take; None where it is not known."""
        if self.device.type != "cuda":
            return None
        gc.collect()
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0]) - SPARE

    def table(
        self, title: str, *, graphs: bool = True, int8_cache: bool = False, batches: list[int] | None = None
    ) -> None:
        """Measure the batch sizes that fit, and print them."""
        self.lm.transformer.int8_cache = int8_cache
        free = self.free()
        profiles: list[Profile] = []
        for slots in batches or self.batches:
            if self.over or not self._fits(slots, free):
                break
            try:
                moshi = Moshi(self.mimi, self.lm, slots)
                profiles.append(profile(moshi, self.steps, copy_rate=self.copy_rate, graphs=graphs, limit_s=LIMIT_S))
            except torch.OutOfMemoryError:
                print(f"{slots} slots do not fit\n")
                break
            finally:
                moshi = None
                self.free()
        print(f"### {title}\n\n{bench_table(profiles)}\n")
        if profiles:
            fit = calls_that_fit(profiles, free)
            print(f"Calls that fit at p99 < 80 ms, of the batches measured: {fit}\n", flush=True)

    def _fits(self, slots: int, free: int | None) -> bool:
        if free is None:
            return True
        config = self.config.temporal
        size = 1 + 4 / config.head_dim if self.lm.transformer.int8_cache else self.dtype.itemsize
        per_slot = 2 * config.num_layers * config.context * config.kv_heads * config.head_dim * size
        return slots * per_slot < free


def reference(bench: Bench) -> None:
    """The reference package at batch 1, with its own graphs, where it is installed."""
    try:
        from benchmarks.reference_moshi import ReferenceMoshi

        theirs = ReferenceMoshi(bench.mimi, bench.lm, 1)
    except ImportError as error:
        print(f"### The reference package\n\nnot installed: {error}\n")
        return
    audio = torch.randn(1, 1, 1920, device=bench.device) * 0.1
    wait = torch.cuda.synchronize if bench.device.type == "cuda" else lambda: None
    times = []
    with torch.inference_mode():
        for n in range(bench.steps + 5):
            started = time.perf_counter()
            theirs.step(audio).cpu()
            wait()
            if n >= 5:
                times.append((time.perf_counter() - started) * 1000)
    row = [1, f"{percentile(times, 50):.2f}", f"{percentile(times, 99):.2f}"]
    print(f"### The reference package\n\n{markdown(['slots', 'p50 ms', 'p99 ms'], [row])}\n", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batch", nargs="+", type=int, default=list(BATCHES), metavar="N")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="per figure; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=9.0, help="default: %(default)s")
    parser.add_argument("--context", type=int, default=3000, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="the tiny model, batch 1 and 2: tries the script itself")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        print("There is no GPU here: nothing is measured. --tiny tries the script itself.")
        return
    if arguments.tiny:
        arguments.batch, arguments.steps = [1, 2], 5
        os.environ["NO_TORCH_COMPILE"] = "1"  # the reference would compile for longer than it runs
    torch.set_grad_enabled(False)
    bench = Bench(arguments)
    print(f"{machine()}, torch {torch.__version__}")
    if bench.device.type == "cuda":
        print(f"{torch.cuda.get_device_name(bench.device)}, copies {bench.copy_rate / 1e9:.0f} GB/s")
    print("Times in ms, p50 / p99; memory in MiB; every slot has a full context and takes part in every step.\n")
    kind = str(bench.dtype).removeprefix("torch.")
    # The largest batches matter most, so the reference and eager steps come last.
    if "graphs" in arguments.parts:
        bench.table(f"{kind}, graphs")
    if "kv" in arguments.parts and not bench.over:
        bench.table(f"{kind}, graphs, 8-bit KV", int8_cache=True)
    if "eager" in arguments.parts and not bench.over:
        bench.table(f"{kind}, eager", graphs=False, batches=bench.batches[:1])
    if "reference" in arguments.parts and not bench.over:
        reference(bench)
    if "int8" in arguments.parts and not bench.over:
        quantize_(bench.lm)
        bench.table("int8 weights, graphs, 8-bit KV", int8_cache=True)
        if not bench.over:
            bench.table("int8 weights, graphs", batches=bench.batches[:4])


if __name__ == "__main__":
    main()
