# ruff: noqa: E402  # the interpreter is chosen before the kernels are defined
"""The Triton kernels against their eager twins: on a GPU where there is one, else in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is missing: pip install triton (torch for CUDA brings it)", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

from model_runtime.kernels.elementwise import rotate
from model_runtime.kernels.gpu.attention import attend
from model_runtime.kernels.gpu.elementwise import rotate_, silu_gate
from model_runtime.kernels.gpu.int8 import matmul
from model_runtime.kernels.int8 import eager_linear, quantize_rows
from model_runtime.kv_cache import attend_over
from model_runtime.kv_int8 import quantize
from model_runtime.transformer import rotation


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Draw the same numbers in every run."""
    torch.manual_seed(0)


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 96, 40), (3, 300, 70), (20, 64, 33)])
def test_int8_matmul(rows: int, inner: int, outer: int) -> None:
    """Any number of rows and any sizes give the product with the widened weight."""
    weight, scb = quantize_rows(torch.randn(outer, inner, device=DEVICE))
    x = torch.randn(rows, inner, device=DEVICE)
    assert relative(matmul(x, weight, scb), eager_linear(x, weight, scb)) <= 1e-5


@pytest.mark.parametrize("kept", ["as it is", "int8"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
def test_attention(kept: str, heads: int, kv_heads: int) -> None:
    """Slots of any age hear what eager attention hears, whatever lies beyond what they have written."""
    slots, capacity, dim = 3, 200, 32
    ages = [1, 130, 500]
    kv = torch.randn(slots, 2, kv_heads, capacity, dim, device=DEVICE)
    filled = torch.tensor([min(age, capacity) for age in ages], device=DEVICE)
    hidden = torch.arange(capacity, device=DEVICE)[None] >= filled[:, None]
    hidden[2, 40:120] = True  # whole blocks that nobody sees, as in a ring that begins late
    bias = torch.zeros(slots, 1, 1, capacity, device=DEVICE).masked_fill_(hidden[:, None, None], float("-inf"))
    query = torch.randn(slots, heads, 1, dim, device=DEVICE)
    scale = None
    if kept == "int8":
        kv, scale = quantize(kv)
    wide = kv if scale is None else kv * scale[..., None]
    expected = attend_over(query, wide[:, 0], wide[:, 1], bias)
    if scale is None:
        kv.masked_fill_(hidden[:, None, None, :, None] & (filled[:, None] < capacity)[..., None, None, None], 7.0)
    assert relative(attend(query, kv, scale, bias, filled), expected) <= 1e-5


def test_rotation() -> None:
    """Queries and keys are turned in place, and values beside them stay."""
    qkv = torch.randn(2, 3, 1, 6, 8, device=DEVICE)
    by = rotation(torch.arange(6, device=DEVICE).view(2, 3), 8, 10_000.0)
    expected = torch.cat([rotate(qkv[:, :, :, :4], by), qkv[:, :, :, 4:]], dim=3)
    rotate_(qkv[:, :, :, :4], by)
    torch.testing.assert_close(qkv, expected)


def test_gate() -> None:
    """The first half, behind SiLU, times the second."""
    projected = torch.randn(3, 1, 2 * 1100, device=DEVICE)
    gate, value = projected.chunk(2, -1)
    torch.testing.assert_close(silu_gate(projected), torch.nn.functional.silu(gate) * value)


def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    """Triton and its assembler take every kernel at the 7B's sizes; that needs no GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.model_runtime.kernels.compile_for_hopper"],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["_attend_run"] * 2 + ["_join_runs", "_rotate", "_gate"] + ["_matmul"] * 2
