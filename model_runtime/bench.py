"""``denwa model bench`` and ``denwa model profile``: a checkpoint's figures on a device, as text."""

from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as trace

from model_runtime.checkpoint.loading import load_moshi
from model_runtime.checkpoint.report import check_device, free_memory
from model_runtime.moshi import Moshi
from model_runtime.profile import (
    BUDGET_MS,
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
    reference: str, device: str, dtype: torch.dtype, slots: Sequence[int], steps: int, *, int8_cache: bool = False
) -> str:
    """A table with a row per number of slots, and the calls that fit; raises ``CheckpointError``.

    Sizes whose caches do not fit into the device's free memory are left out.
    """
    first, free, copy_rate = _load(reference, device, dtype, int8_cache)
    memory = measure_memory(first)
    per_slot = memory.cache_per_slot + memory.codec_per_slot
    sizes = sorted(set(slots))
    left_out = [size for size in sizes if size * per_slot > free]
    profiles = [
        profile(Moshi(first.mimi, first.lm, size), steps, copy_rate=copy_rate) for size in sizes if size not in left_out
    ]
    lines = [_title(reference, device, dtype, copy_rate), "", bench_table(profiles), ""]
    if left_out:
        lines.append(f"Left out, since they do not fit into memory: {', '.join(map(str, left_out))} slots.")
    lines.append(
        f"Calls that fit at p99 < {BUDGET_MS:.0f} ms, of the sizes measured: {calls_that_fit(profiles, free)}."
    )
    return "\n".join(lines)


def profile_report(
    reference: str, device: str, dtype: torch.dtype, slots: int, steps: int, *, int8_cache: bool = False
) -> str:
    """One size's figures, its latency budget, and the operations that take longest; raises ``CheckpointError``."""
    first, _, copy_rate = _load(reference, device, dtype, int8_cache)
    moshi = Moshi(first.mimi, first.lm, slots)
    figures = profile(moshi, steps, copy_rate=copy_rate)
    return "\n\n".join(
        [
            _title(reference, device, dtype, copy_rate),
            bench_table([figures]),
            latency_budget(figures),
            _operations(moshi),
        ]
    )


def _load(reference: str, device: str, dtype: torch.dtype, int8_cache: bool) -> tuple[Moshi, int, float]:
    """The model with one slot, the memory that is then free, and the device's copy rate in bytes per second."""
    where = torch.device(device)
    check_device(where)
    loaded, _ = load_moshi(reference, device, dtype, 1)
    loaded.lm.transformer.int8_cache = int8_cache
    copy_rate = measure_copy_rate(where)
    return Moshi(loaded.mimi, loaded.lm, 1), free_memory(where), copy_rate


def _title(reference: str, device: str, dtype: torch.dtype, copy_rate: float) -> str:
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    kind = str(dtype).removeprefix("torch.")
    return (
        f"{reference}, {kind}, on {device} ({where}, copies {copy_rate / 1e9:.0f} GB/s), torch {torch.__version__}.\n"
        "Times in ms, p50 / p99; memory in MiB; all slots with full contexts in every step."
    )


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
