"""``denwa model bench`` and ``denwa model profile``: a checkpoint's figures on a device, as text."""

from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as trace

from model_runtime.checkpoint.loading import load_moshi
from model_runtime.checkpoint.report import free_memory, place
from model_runtime.errors import CheckpointError
from model_runtime.moshi import Moshi
from model_runtime.profile import (
    BUDGET_MS,
    Profile,
    bench_table,
    calls_that_fit,
    latency_budget,
    measure_copy_rate,
    measure_memory,
    profile,
)

_TRACED_STEPS = 5
_OPERATIONS = 15


def bench(
    reference: str,
    device: str | None,
    dtype: str | None,
    slots: Sequence[int],
    steps: int,
    *,
    int8_weights: bool = False,
    int8_cache: bool = False,
) -> str:
    """A table with a row per number of slots, and the calls that fit; raises ``CheckpointError``.

    Sizes whose caches do not fit into the device's free memory are left out.
    """
    loaded = _Loaded(reference, device, dtype, int8_weights=int8_weights, int8_cache=int8_cache)
    sizes = sorted(set(slots))
    left_out = [size for size in sizes if not loaded.fits(size)]
    profiles = [loaded.profile(size, steps)[1] for size in sizes if size not in left_out]
    lines = [loaded.title, "", bench_table(profiles), ""]
    if left_out:
        lines.append(f"Left out, since they do not fit into memory: {', '.join(map(str, left_out))} slots.")
    fit = calls_that_fit(profiles, loaded.free)
    lines.append(f"Calls that fit at p99 < {BUDGET_MS:.0f} ms, of the sizes measured: {fit}.")
    return "\n".join(lines)


def profile_report(
    reference: str,
    device: str | None,
    dtype: str | None,
    slots: int,
    steps: int,
    *,
    int8_weights: bool = False,
    int8_cache: bool = False,
) -> str:
    """One size's figures, its latency budget, and the operations that take longest; raises ``CheckpointError``."""
    loaded = _Loaded(reference, device, dtype, int8_weights=int8_weights, int8_cache=int8_cache)
    if not loaded.fits(slots):
        raise CheckpointError(f"{reference}: {slots} slots do not fit into the memory of {loaded.device}")
    moshi, figures = loaded.profile(slots, steps)
    return "\n\n".join([loaded.title, bench_table([figures]), latency_budget(figures), _operations(moshi)])


class _Loaded:
    """A model without slots, and what its device can do."""

    def __init__(
        self, reference: str, device: str | None, dtype: str | None, *, int8_weights: bool, int8_cache: bool
    ) -> None:
        self.device, chosen = place(device, dtype)
        one, _ = load_moshi(reference, self.device, chosen, 1, int8_weights=int8_weights, int8_cache=int8_cache)
        self._mimi, self._lm = one.mimi, one.lm
        self._memory = measure_memory(one)
        self._copy_rate = measure_copy_rate(self.device)
        self.free = free_memory(self.device)
        cuda = self.device.type == "cuda"
        where = torch.cuda.get_device_name(self.device) if cuda else f"{torch.get_num_threads()} threads"
        weights = "int8" if int8_weights else str(chosen).removeprefix("torch.")
        self.title = (
            f"{reference}, weights in {weights}, on {self.device} ({where}, copies {self._copy_rate / 1e9:.0f} GB/s), "
            f"torch {torch.__version__}.\n"
            "Times in ms, p50 / p99; memory in MiB; all slots with full contexts in every step."
        )

    def fits(self, slots: int) -> bool:
        """Whether so many slots fit into memory."""
        return slots * (self._memory.cache_per_slot + self._memory.codec_per_slot) <= self.free

    def profile(self, slots: int, steps: int) -> tuple[Moshi, Profile]:
        """The model with so many slots, and its figures."""
        moshi = Moshi(self._mimi, self._lm, slots)
        return moshi, profile(moshi, steps, copy_rate=self._copy_rate)


def _operations(moshi: Moshi) -> str:
    """The operations of eager steps that take longest on the device, as a table."""
    audio = torch.randn(moshi.slots, 1, moshi.mimi.frame_samples) * 0.1
    mask = torch.ones(moshi.slots, dtype=torch.bool)
    cuda = moshi.device.type == "cuda"
    with trace(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as traced:
        for _ in range(_TRACED_STEPS):
            moshi.step(audio, mask)
    times = [
        ((each.self_device_time_total if cuda else each.self_cpu_time_total) / _TRACED_STEPS / 1000, each)
        for each in traced.key_averages()
    ]
    times.sort(key=lambda pair: -pair[0])
    total = sum(milliseconds for milliseconds, _ in times) or 1.0
    lines = [["operation", "ms per step", "%", "per step"], ["---"] * 4]
    lines += [
        [each.key, f"{milliseconds:.3f}", f"{100 * milliseconds / total:.0f}", f"{each.count / _TRACED_STEPS:.0f}"]
        for milliseconds, each in times[:_OPERATIONS]
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
