"""A call may last as long as it likes: what is remembered does not grow."""

from pathlib import Path

import torch

from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi, Sampling
from model_runtime.state import slot_tensors

WARM_UP, STEPS = 100, 500
PAGE_KB = 4


def resident_kb() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB


def test_memory_stays_flat(small_mimi: Mimi, small_lm: LanguageModel) -> None:
    """After fifty times the context the state lies where it lay, as large as it was, and so is the process.

    The time of the steps of a 30-minute call is measured by benchmarks/long_call.py.
    """
    moshi = Moshi(small_mimi, small_lm, 1, pins=4)
    moshi.reset(0, Sampling(), 1)
    states = (moshi.encoder_state, moshi.decoder_state, moshi.lm_state, moshi.grid_state)
    mask = torch.tensor([True])
    frames = torch.randn(50, 1, 1, 1920, generator=torch.Generator().manual_seed(1)) * 0.1
    for n in range(WARM_UP):
        moshi.step(frames[n % 50], mask)
    where = [(tensor.data_ptr(), tensor.shape) for state in states for tensor in slot_tensors(state)]
    before = resident_kb()
    for n in range(STEPS):
        step = moshi.step(frames[n % 50], mask)
    assert resident_kb() - before < 2_000
    assert where == [(tensor.data_ptr(), tensor.shape) for state in states for tensor in slot_tensors(state)]
    assert moshi.grid_state.offset[0] == WARM_UP + STEPS
    assert step.ready.all()
    assert step.audio.isfinite().all()
