import pytest

from agent.cli import main
from model_runtime.moshi import Moshi
from model_runtime.profile import (
    PARTS,
    WHOLE,
    Memory,
    Profile,
    bytes_per_step,
    calls_that_fit,
    measure_memory,
    percentile,
    profile,
)
from model_runtime.tiny import tiny_moshi


def made_up(slots: int, p99: float) -> Profile:
    """A profile whose slowest step took ``p99`` ms."""
    times = {part: [1.0, p99] for part in (*PARTS, WHOLE)}
    return Profile(slots, times, Memory(1000, 100, 10, 5, None), 0.5)


def test_percentile_is_by_nearest_rank() -> None:
    """The p99 of a hundred values is the second largest, of two the larger."""
    assert percentile(list(range(100)), 99) == 98
    assert percentile([2.0, 1.0], 99) == 2.0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0


def test_calls_that_fit_are_bounded_by_time_and_memory() -> None:
    """The largest batch within a frame's time counts, and no more than fit into memory."""
    profiles = [made_up(1, 10.0), made_up(8, 79.0), made_up(16, 81.0)]
    assert calls_that_fit(profiles, None) == 8
    assert calls_that_fit(profiles, 60) == 4
    assert calls_that_fit([made_up(1, 90.0)], None) == 0


def test_profile_of_the_tiny_model() -> None:
    """Every part is timed as often as asked, and memory is what the tensors hold."""
    moshi, _ = tiny_moshi(2)
    figures = profile(moshi, 3, copy_rate=1e9)
    assert {part: len(times) for part, times in figures.times.items()} == dict.fromkeys((*PARTS, WHOLE), 3)
    memory = figures.memory
    assert memory.cache_per_slot == 3 * 2 * 250 * 128 * 4  # layers, keys and values, context, width, float32
    assert memory.language_model == sum(tensor.nbytes for tensor in moshi.lm.parameters())
    assert figures.floor_ms == pytest.approx(bytes_per_step(moshi, memory) / 1e6)
    assert memory.cache_per_slot < bytes_per_step(moshi, memory) < memory.language_model + memory.mimi + 4e6


def test_int8_cache_is_a_quarter_and_a_scale() -> None:
    """In int8 a float32 cache shrinks to a quarter, and a scale per head and position comes on top."""
    moshi, _ = tiny_moshi(1)
    wide = measure_memory(moshi).cache_per_slot
    moshi.lm.transformer.int8_cache = True
    narrow = measure_memory(Moshi(moshi.mimi, moshi.lm, 1)).cache_per_slot
    assert narrow == wide // 4 + 3 * 2 * 250 * 4 * 4


def test_reports_are_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """``denwa model bench`` has a row per size, ``profile`` the latency budget and the costliest operations too."""
    assert main(["model", "bench", "random:tiny", "--device", "cpu", "--slots", "2", "1", "--steps", "2"]) == 0
    table = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][2:] == ["1", "2"]
    assert "Calls that fit" in table
    assert main(["model", "profile", "random:tiny", "--device", "cpu", "--steps", "2", "--int8-cache"]) == 0
    report = capsys.readouterr().out
    for line in ("capture", "framing", "encode", "step", "decode", "playout", "in all", "aten::mm"):
        assert f"| {line} |" in report
