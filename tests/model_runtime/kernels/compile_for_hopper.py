"""Compile every Triton kernel for sm_90, at the 7B's sizes, without a GPU. Prints the kernels' names.

    python -m tests.model_runtime.kernels.compile_for_hopper

A process of its own: where Triton's interpreter is on, kernels cannot be compiled.
"""

import sys
from collections.abc import Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model_runtime.kernels.gpu import attention, elementwise, int8


def compile_kernel(kernel: Any, types: Mapping[str, str], constants: Mapping[str, object], **options: int) -> None:
    """Compile one kernel; raises where Triton or the assembler refuses it."""
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"]
    sys.stdout.write(f"{kernel.__name__}\n")


def main() -> None:
    """Compile them all."""
    sizes = {"heads": "i32", "kv_heads": "i32", "capacity": "i32", "kv_stride": "i64", "scale_stride": "i64"}
    buffers = {"query": "*bf16", "bias": "*bf16", "filled": "*i64", "total": "*fp32", "sums": "*fp32"}
    for kv, scale, scaled in (("*bf16", "*bf16", False), ("*i8", "*fp32", True)):
        compile_kernel(
            attention._attend_run,
            {**buffers, **sizes, "kv": kv, "scale": scale, "softmax_scale": "fp32"},
            {"RUN": 192, "BLOCK": 64, "DIM": 128, "SPLITS": 16, "SCALED": scaled},
            num_warps=4,
        )
    compile_kernel(
        attention._join_runs, {"total": "*fp32", "sums": "*fp32", "out": "*bf16"}, {"DIM": 128, "SPLITS": 16}
    )
    strides = {"length": "i32", "slot_stride": "i32", "step_stride": "i32", "pairs": "i32"}
    compile_kernel(elementwise._rotate, {"heads": "*bf16", "turns": "*fp32", **strides}, {"HALF": 64, "BLOCK": 1024})
    compile_kernel(elementwise._gate, {"projected": "*bf16", "out": "*bf16", "hidden": "i32"}, {"BLOCK": 1024})
    matmul = {"x": "*bf16", "weight": "*i8", "scb": "*fp32", "out": "*bf16"}
    for rows, columns, inner in ((16, 32, 256), (128, 64, 128)):
        compile_kernel(
            int8._matmul,
            {**matmul, **dict.fromkeys(("m", "n", "k", "stride"), "i32")},
            {"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": inner},
            num_warps=4,
            num_stages=4 if rows == 16 else 3,
        )


if __name__ == "__main__":
    main()
