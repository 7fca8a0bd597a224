"""How long the parts of a step take, and what they hold: the figures of ``denwa model bench`` and ``profile``.

Runs on the thread that calls it, and on whatever device the model lies; needs torch alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import torch

from config.audio import FRAME_S, TICK_S
from model_runtime.engine.graph import StepGraphs, capture
from model_runtime.moshi import Moshi, Sampling
from model_runtime.state import slot_tensors

WHOLE: Final = "whole step"
PARTS: Final = ("encode", "temporal", "depth", "decode")
BUDGET_MS: Final = FRAME_S * 1000
_WARM_UPS: Final = 5
_MIB: Final = 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes on the device."""

    language_model: int
    mimi: int
    cache_per_slot: int
    """Keys and values of the language model."""
    codec_per_slot: int
    """What Mimi remembers."""
    activations: int | None
    """The most that a step needs besides; known on CUDA alone."""


@dataclass(frozen=True)
class Profile:
    """The steps of one batch size. Times in ms."""

    slots: int
    times: dict[str, list[float]]
    memory: Memory
    floor_ms: float
    """The bytes that a step cannot but read, at the measured speed of a copy."""

    def p50(self, part: str = WHOLE) -> float:
        """The median."""
        return percentile(self.times[part], 50)

    def p99(self, part: str = WHOLE) -> float:
        """The 99th percentile, by nearest rank."""
        return percentile(self.times[part], 99)

    @property
    def real_time_factor(self) -> float:
        """The part of real time that a step takes; above 1 it does not keep up."""
        return self.p50() / BUDGET_MS


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile by nearest rank."""
    return sorted(values)[max(0, ceil(percent / 100 * len(values)) - 1)]


def profile(moshi: Moshi, steps: int, *, copy_rate: float, graphs: bool = True, limit_s: float = 60.0) -> Profile:
    """Step all slots with full contexts ``steps`` times, or for ``limit_s``, and time the whole and the parts.

    The whole step is what a slot waits for: from audio on the host to audio on the host. The parts are run by
    themselves, one after the other. On CUDA each is a captured graph, unless ``graphs`` is False.
    """
    graphed = graphs and moshi.device.type == "cuda"
    for slot in range(moshi.slots):
        moshi.reset(slot, Sampling(), slot)
    fill_contexts(moshi)
    if moshi.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if moshi.device.type == "cuda" else 0
    whole = StepGraphs(moshi, sizes=()).step if graphed else moshi.step
    audio = torch.randn(moshi.slots, 1, moshi.mimi.frame_samples) * 0.1
    mask = torch.ones(moshi.slots, dtype=torch.bool)

    def step() -> None:
        made = whole(audio, mask)
        made.audio.cpu()
        made.tokens.cpu()

    with torch.inference_mode():
        times = {WHOLE: _time(step, moshi.device, steps, limit_s / 2)}
        activations = torch.cuda.max_memory_allocated() - before if moshi.device.type == "cuda" else None
        for part, work in _parts(moshi).items():
            run = capture(work, moshi.device).replay if graphed else work
            times[part] = _time(run, moshi.device, steps, limit_s / 2 / len(PARTS))
    memory = measure_memory(moshi, activations)
    return Profile(moshi.slots, times, memory, bytes_per_step(moshi, memory) / copy_rate * 1000)


def measure_memory(moshi: Moshi, activations: int | None = None) -> Memory:
    """What a model and its slots hold."""
    cache = sum(ring.nbytes for ring in moshi.lm_state.transformer.rings)
    codec = [*slot_tensors(moshi.encoder_state), *slot_tensors(moshi.decoder_state)]
    return Memory(
        language_model=_nbytes(moshi.lm),
        mimi=_nbytes(moshi.mimi),
        cache_per_slot=cache // moshi.slots,
        codec_per_slot=sum(tensor.nbytes for tensor in codec) // moshi.slots,
        activations=activations,
    )


def bytes_per_step(moshi: Moshi, memory: Memory) -> int:
    """What a step of all slots with full contexts cannot but read: weights but embedding tables, caches, codec."""
    lm = moshi.lm
    tables = [lm.text_emb, *lm.emb, *lm.depformer_emb]
    if lm.config.dep_q:
        tables.append(lm.depformer_text_emb)
    weights = memory.language_model - sum(_nbytes(table) for table in tables)
    codebooks = sum(buffer.nbytes for buffer in moshi.mimi.quantizer.buffers())
    return weights + memory.mimi - codebooks + moshi.slots * (memory.cache_per_slot + memory.codec_per_slot)


def measure_copy_rate(device: torch.device, size: int | None = None) -> float:
    """Bytes per second that a copy within the device's memory reads and writes, the best of a few."""
    size = size or (2**30 if device.type == "cuda" else 2**27)
    source = torch.ones(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    best = min(_time(lambda: target.copy_(source), device, 8, 5.0))
    return 2 * size / (best / 1000)


def calls_that_fit(profiles: Sequence[Profile], free: int | None) -> int:
    """The largest profiled batch whose p99 lies under one frame, and whose slots fit into ``free`` bytes."""
    fitting = [each.slots for each in profiles if each.p99() < BUDGET_MS]
    largest = max(fitting, default=0)
    if free is None or not profiles:
        return largest
    memory = profiles[0].memory
    return min(largest, max(0, free) // (memory.cache_per_slot + memory.codec_per_slot))


def bench_table(profiles: Sequence[Profile]) -> str:
    """A markdown table with a row per batch size; times are p50 / p99 in ms, memory in MiB."""
    head = ["slots", *PARTS, WHOLE, "real-time factor", "floor", "weights", "Mimi", "KV per slot", "Mimi per slot"]
    rows = [
        [
            str(each.slots),
            *(f"{each.p50(part):.2f} / {each.p99(part):.2f}" for part in (*PARTS, WHOLE)),
            f"{each.real_time_factor:.3f}",
            f"{each.floor_ms:.2f}",
            *(
                f"{size / _MIB:.1f}"
                for size in (
                    each.memory.language_model,
                    each.memory.mimi,
                    each.memory.cache_per_slot,
                    each.memory.codec_per_slot,
                )
            ),
            "-" if each.memory.activations is None else f"{each.memory.activations / _MIB:.1f}",
        ]
        for each in profiles
    ]
    lines = [[*head, "activations"], ["---"] * (len(head) + 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latency_budget(each: Profile) -> str:
    """Where the time goes between a caller's sound and the model's answer to it, line by line, in ms."""
    language = [a + b for a, b in zip(each.times["temporal"], each.times["depth"], strict=False)]
    lines = [
        ("capture", TICK_S * 1000, "one packet of the line; the jitter buffer comes on top"),
        ("framing", BUDGET_MS, "a frame is sent when it is full"),
        ("encode", percentile(each.times["encode"], 99), "p99"),
        ("step", percentile(language, 99), "p99: temporal and depth transformers, sampling"),
        ("decode", each.p99("decode"), "p99"),
        ("acoustic delay", BUDGET_MS, "the acoustic codes follow one step behind the semantic one"),
        ("playout", TICK_S * 1000, "one packet of the line; up to a frame and 40 ms where frames come unevenly"),
    ]
    total = sum(milliseconds for _, milliseconds, _ in lines)
    texts = [["part", "ms", ""], ["---", "---", "---"]]
    texts += [[name, f"{milliseconds:.1f}", why] for name, milliseconds, why in (*lines, ("in all", total, ""))]
    return "\n".join("| " + " | ".join(line) + " |" for line in texts)


def _parts(moshi: Moshi) -> dict[str, Callable[[], object]]:
    """The parts of a step, over the model's own state."""
    slots, device, lm, mimi = moshi.slots, moshi.device, moshi.lm, moshi.mimi
    audio = torch.randn(slots, 1, mimi.frame_samples, device=device) * 0.1
    everyone = torch.ones(slots, device=device, dtype=torch.bool)
    codes = torch.zeros(slots, mimi.codebooks, device=device, dtype=torch.long)
    column = torch.zeros(slots, lm.config.streams, device=device, dtype=torch.long)
    text = torch.zeros(slots, device=device, dtype=torch.long)
    hidden = torch.randn(slots, lm.config.dim, device=device).to(lm.text_emb.weight.dtype)
    return {
        "encode": lambda: mimi.encode_step(audio, moshi.encoder_state, everyone),
        "temporal": lambda: moshi.sampler.text(lm.step(column, moshi.lm_state, everyone)[1]),
        "depth": lambda: lm.generate_codes(hidden, text, moshi.sampler.code),
        "decode": lambda: mimi.decode_step(codes, moshi.decoder_state, everyone),
    }


def fill_contexts(moshi: Moshi) -> None:
    """Let every slot be as old as its contexts are long, since that is when a step costs most."""
    context = moshi.lm.config.context
    moshi.lm_state.transformer.offset.fill_(context)
    moshi.grid_state.offset.fill_(context)
    for state in (moshi.encoder_state.transformer, moshi.decoder_state.transformer):
        state.offset.fill_(2 * moshi.mimi.config.context)


def _time(work: Callable[[], object], device: torch.device, steps: int, limit_s: float) -> list[float]:
    """Durations of ``work`` in ms, until the device is done with it."""
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(_WARM_UPS):
        work()
    times: list[float] = []
    wait()
    end = time.perf_counter() + limit_s
    while len(times) < steps and (not times or time.perf_counter() < end):
        started = time.perf_counter()
        work()
        wait()
        times.append((time.perf_counter() - started) * 1000)
    return times


def _nbytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
