"""A module on the meta device and a file of tensors: does the one fit the other, and if so, tensor by tensor, fill it.

Owns nothing beyond the load. Every fault is found from names, shapes and types before a single tensor is read.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_runtime.checkpoint.lora import Adapters
from model_runtime.checkpoint.names import Stored
from model_runtime.checkpoint.quantized import SUFFIX, dequantize
from model_runtime.checkpoint.tensor_file import Shape, TensorFile
from model_runtime.errors import CheckpointError


class Filling:
    """The tensors that a module wants, those that a file and perhaps adapters have, and the way from one to the other.

    A matrix that the module keeps in int8 (it wants scales, ``…_scb``) is taken as it is or quantised; any other is
    dequantised.
    """

    def __init__(
        self, module: nn.Module, file: TensorFile, found: Mapping[str, Stored], adapters: Adapters | None = None
    ) -> None:
        self._module = module
        self._wanted: dict[str, Tensor] = module.state_dict()
        self._file = file
        self._found = found
        self._adapters = adapters

    def check(self) -> None:
        """Raise ``CheckpointError`` with every tensor that is missing, unexpected, misshapen, doubled or mistyped."""
        faults = [*self._names(), *self._tensors()]
        if self._adapters is not None:
            shapes = {name: tuple(tensor.shape) for name, tensor in self._wanted.items()}
            faults += [f"{self._adapters.file.path}: {fault}" for fault in self._adapters.faults(shapes)]
            if any(name.endswith(SUFFIX) for name in self._found):
                faults.append("adapters cannot be merged into int8 weights: take the unquantized checkpoint")
        if faults:
            raise CheckpointError(f"{self._file.path}: does not fit its model:\n  " + "\n  ".join(faults))

    def fill(self, device: torch.device, dtype: torch.dtype) -> None:
        """Give the module its tensors on ``device`` in ``dtype``; raises ``CheckpointError``."""
        self.check()
        reader = _Reader(self._file, self._found, device)
        state: dict[str, Tensor] = {}
        try:
            for name, meta in self._wanted.items():
                if not name.endswith(SUFFIX):
                    state |= self._tensor(reader, name, meta.shape, dtype)
        except torch.OutOfMemoryError as error:
            raise CheckpointError(f"{self._file.path}: does not fit into the memory of {device}: {error}") from error
        self._module.load_state_dict(state, assign=True)
        tensors = (*self._module.named_parameters(), *self._module.named_buffers())
        left = [name for name, tensor in tensors if tensor.is_meta]
        assert device.type == "meta" or not left, left

    def _names(self) -> Iterator[str]:
        missing = [name for name in self._wanted if name not in self._found and not name.endswith(SUFFIX)]
        if missing:
            yield f"missing ({len(missing)}): {', '.join(missing)}"
        unexpected = _keys(stored for name, stored in self._found.items() if self._base(name) is None)
        if unexpected:
            yield f"unexpected ({len(unexpected)}): {', '.join(unexpected)}"

    def _base(self, name: str) -> Tensor | None:
        """The module's tensor that a name of the file, perhaps of its scales, is about."""
        return self._wanted.get(name.removesuffix(SUFFIX))

    def _tensors(self) -> Iterator[str]:
        for name, stored in self._found.items():
            base = self._base(name)
            if base is None:
                continue
            if doubtful := stored.faults(name):
                yield from doubtful
                continue
            types = {self._file.dtype(key) for key in stored.ordered()}
            if name.endswith(SUFFIX):
                yield from self._misshapen(name, stored, tuple(base.shape[:1]))
                if types != {torch.float32}:
                    yield f"{name}: float32 is needed, it is {types.pop()}"
            else:
                yield from self._misshapen(name, stored, tuple(base.shape))
                if torch.int8 in types and name + SUFFIX not in self._found:
                    yield f"missing (1): {name}{SUFFIX}, the scales of the int8 {name}"

    def _misshapen(self, name: str, stored: Stored, need: Shape) -> Iterator[str]:
        shapes = [self._file.shapes[key] for key in stored.ordered()]
        have = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if shapes[0] else ()
        enough = have == need or (stored.shortened and have[0] > need[0] and have[1:] == need[1:])
        if not enough or any(shape[1:] != shapes[0][1:] for shape in shapes):
            yield f"misshapen: {name} is {list(have)}, {list(need)} is needed"

    def _tensor(self, reader: "_Reader", name: str, shape: Shape, dtype: torch.dtype) -> dict[str, Tensor]:
        scales = name + SUFFIX
        if scales in self._found:
            matrix, scb = reader.read(name, shape, torch.int8), reader.read(scales, shape[:1], torch.float32)
            return {name: matrix, scales: scb} if scales in self._wanted else {name: dequantize(matrix, scb, dtype)}
        tensor = self._floating(reader, name, shape, dtype)
        if scales in self._wanted:
            from model_runtime.kernels.int8 import quantize_rows

            return dict(zip((name, scales), quantize_rows(tensor), strict=True))
        return {name: tensor}

    def _floating(self, reader: "_Reader", name: str, shape: Shape, dtype: torch.dtype) -> Tensor:
        """A tensor in ``dtype``, rounded once, after its adapter has been added."""
        adapters = self._adapters
        if adapters is None:
            return reader.read(name, shape, dtype)
        if name in adapters.replacing:
            reader = _Reader(adapters.file, adapters.replacing, reader.device)
        if not adapters.touches(name):
            return reader.read(name, shape, dtype)
        return adapters.add(name, reader.read(name, shape, torch.float32)).to(dtype)


@dataclass(frozen=True)
class _Reader:
    """Reads a file's tensors to where they are used."""

    file: TensorFile
    found: Mapping[str, Stored]
    device: torch.device

    def read(self, name: str, shape: Shape, dtype: torch.dtype) -> Tensor:
        """A tensor from its keys, one below the other; mapped where nothing about it changes."""
        file, keys = self.file, self.found[name].ordered()
        as_it_is = self.device.type == "cpu" and file.dtype(keys[0]) == dtype
        if as_it_is and len(keys) == 1 and file.shapes[keys[0]] == tuple(shape):
            return file.map(keys[0])
        out = torch.empty(tuple(shape), device=self.device, dtype=dtype)
        start = 0
        for key in keys:
            rows = min(file.shapes[key][0], len(out) - start)
            file.copy(key, out[start : start + rows])
            start += rows
        return out


def _keys(stored: Iterable[Stored]) -> list[str]:
    return [key for each in stored for key in each.ordered()]
