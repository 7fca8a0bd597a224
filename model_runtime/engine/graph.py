"""CUDA graphs of the whole step: one launch instead of some thousands. Runs on the engine thread.

A graph is captured for a few batch sizes. The one of size n steps rows 0 to n - 1, over views of the same state, so
nothing is copied between sizes. The engine gives a newcomer the lowest free row, so a lightly used machine replays
small graphs. Whatever is not of the device (noise, seeds, resets) happens outside, in the same buffers.

Warm-up and capture step nobody: with an empty mask a step leaves all state as it is (see ``model_runtime.state``).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from model_runtime.lm.delays import NOT_FORCED, UNGENERATED
from model_runtime.moshi import Moshi, MoshiStep

Pool = Any
"""Memory that graphs share: an opaque handle of torch, whose type differs between its versions."""
SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
_WARM_UPS: Final = 2
"""Libraries choose algorithms and allocate workspaces in the first steps, which a capture cannot record."""


def capture(work: Callable[[], object], device: torch.device, pool: Pool | None = None) -> torch.cuda.CUDAGraph:
    """A graph of what ``work`` does on the device, where all it reads and writes must stay in place."""
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            work()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph


class _Graph:
    """The captured step of the first rows, and the buffers it reads and writes."""

    def __init__(self, moshi: Moshi, output: MoshiStep, pool: Pool | None) -> None:
        rows, device = moshi.slots, moshi.device
        self._audio = torch.zeros(rows, 1, moshi.mimi.frame_samples, device=device)
        self._active = torch.zeros(rows, device=device, dtype=torch.bool)
        self._forced = torch.full((rows, moshi.lm.config.streams), NOT_FORCED, device=device)

        def step() -> None:
            put(output, moshi.advance(self._audio, self._active, self._forced))

        self._graph = capture(step, device, pool)

    def replay(self, audio: Tensor, mask: Tensor, forced: Tensor | None) -> None:
        """Step; the result is in the output that the graph was captured with."""
        if forced is None:
            self._forced.fill_(NOT_FORCED)
        else:
            self._forced.copy_(forced, non_blocking=True)
        self._audio.copy_(audio, non_blocking=True)
        self._active.copy_(mask, non_blocking=True)
        self._graph.replay()


class StepGraphs:
    """Steps a ``Moshi`` by replaying captured graphs; on the CPU it steps it eagerly.

    The tensors of a returned ``MoshiStep`` are overwritten by the next step.
    """

    def __init__(self, moshi: Moshi, sizes: Sequence[int] = SIZES) -> None:
        self._moshi = moshi
        self.sizes = (*sorted(size for size in set(sizes) if size < moshi.slots), moshi.slots)
        self._graphs: dict[tuple[int, tuple[int, int]], _Graph] = {}
        self._output = silence(moshi)
        self._graphed = moshi.device.type == "cuda"
        self._pool: Pool | None = torch.cuda.graph_pool_handle() if self._graphed else None

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture every size now, the largest first so that the smaller ones fit into its memory."""
        for size in reversed(self.sizes):
            if self._graphed:
                self._graph(size)

    @torch.inference_mode()
    def step(self, audio: Tensor, mask: Tensor, forced: Tensor | None = None) -> MoshiStep:
        """``Moshi.step``; ``audio [B, 1, 1920]``, ``mask [B]``, ``forced [B, 17]`` are on the CPU, best pinned."""
        if not self._graphed:
            return self._moshi.step(audio, mask, forced)
        assert audio.shape == (self._moshi.slots, 1, self._moshi.mimi.frame_samples), audio.shape
        active = mask.tolist()
        self._moshi.prepare(active)
        size = smallest(self.sizes, active)
        self._graph(size).replay(audio[:size], mask[:size], None if forced is None else forced[:size])
        return self._output

    def _graph(self, size: int) -> _Graph:
        """The graph of a size, captured at its first use and again when more candidates are ranked than it has."""
        key = (size, self._moshi.sampler.candidates)
        graph = self._graphs.get(key)
        if graph is None:
            graph = self._graphs[key] = _Graph(self._moshi.rows(size), self._output, self._pool)
        return graph


def smallest(sizes: Sequence[int], active: Sequence[bool]) -> int:
    """The smallest of ``sizes``, which ascend, that reaches every active row."""
    reach = max((row + 1 for row, taking_part in enumerate(active) if taking_part), default=0)
    return next(size for size in sizes if size >= reach)


def silence(moshi: Moshi) -> MoshiStep:
    """A step that gave nothing, for all slots."""
    return MoshiStep(
        audio=torch.zeros(moshi.slots, 1, moshi.mimi.frame_samples, device=moshi.device),
        tokens=torch.full((moshi.slots, moshi.lm.config.streams), UNGENERATED, device=moshi.device),
        ready=torch.zeros(moshi.slots, device=moshi.device, dtype=torch.bool),
        row=torch.full((moshi.slots, moshi.lm.config.streams), UNGENERATED, device=moshi.device),
        caller=None if moshi.listener is None else torch.full((moshi.slots,), UNGENERATED, device=moshi.device),
    )


def put(output: MoshiStep, step: MoshiStep) -> None:
    """Write the step of the first rows into ``output``, and nothing into the rows behind them."""
    rows = step.ready.shape[0]
    for whole, part, nothing in (
        (output.audio, step.audio, 0.0),
        (output.tokens, step.tokens, UNGENERATED),
        (output.ready, step.ready, False),
        (output.row, step.row, UNGENERATED),
        (output.caller, step.caller, UNGENERATED),
    ):
        if whole is None or part is None:  # no one listens
            continue
        whole[:rows].copy_(part)
        whole[rows:].fill_(nothing)
