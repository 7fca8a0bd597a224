"""Files of named tensors, read one at a time through memory mappings. Used by whoever loads a model.

A mapping's pages count as this process's memory for as long as the mapping lives. So each tensor has a mapping of its
own, which goes with it: only what stays as it is, on the CPU, is kept. Nor does any mapping ask for more address space
than its tensor, so a host may have less memory than the file has bytes.
"""

import json
import mmap
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model_runtime.errors import CheckpointError

Shape = tuple[int, ...]

_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}


class TensorFile(Protocol):
    """Named tensors of one file."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shape of every tensor."""

    def dtype(self, key: str) -> torch.dtype:
        """The type of a tensor."""

    def map(self, key: str) -> Tensor:
        """A tensor that stays mapped while it is in use."""

    def copy(self, key: str, to: Tensor) -> None:
        """Write the first ``len(to)`` rows of a tensor to ``to``, of any device and floating type."""


class SafetensorsFile:
    """A .safetensors file; raises ``CheckpointError`` where it is truncated or corrupt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt"):  # finds every fault of the header, and bytes that are missing
                pass
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
        except SafetensorError as error:
            raise CheckpointError(
                f"{path}: truncated, corrupt or no safetensors file at all: {_line(error)}"
            ) from error
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or _line(error)}") from error
        header.pop("__metadata__", None)
        self.shapes: Mapping[str, Shape] = {key: tuple(each["shape"]) for key, each in header.items()}
        self._types: Mapping[str, str] = {key: each["dtype"] for key, each in header.items()}
        self._starts: Mapping[str, int] = {key: 8 + size + each["data_offsets"][0] for key, each in header.items()}

    def dtype(self, key: str) -> torch.dtype:
        """The type of a tensor."""
        name = self._types[key]
        if name not in _DTYPES:
            raise CheckpointError(f"{self.path}: {key}: type {name} cannot be read here")
        return _DTYPES[name]

    def map(self, key: str) -> Tensor:
        """A tensor that stays mapped while it is in use; what is written to it stays in this process."""
        dtype, shape, start = self.dtype(key), self.shapes[key], self._starts[key]
        count = prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        page = start - start % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            length = start - page + count * dtype.itemsize
            window = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=page)
        return torch.frombuffer(window, dtype=dtype, count=count, offset=start - page).view(shape)

    def copy(self, key: str, to: Tensor) -> None:
        """Write the first ``len(to)`` rows of a tensor to ``to``; of the mapping nothing stays."""
        _copy_rows(self.map(key), to)


class PickledFile:
    """A torch file of old releases, with the state dict behind some keys; nothing but tensors is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # torch raises whatever its unpickler met
            raise CheckpointError(f"{path}: no torch file that can be read safely: {_line(error)}") from error
        for key in ("fsdp_best_state", "model"):
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
        if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(f"{path}: no state dict is in this file where old releases have it")
        self._tensors: dict[str, Tensor] = content
        self.shapes: Mapping[str, Shape] = {key: tuple(tensor.shape) for key, tensor in content.items()}

    def dtype(self, key: str) -> torch.dtype:
        """The type of a tensor."""
        return self._tensors[key].dtype

    def map(self, key: str) -> Tensor:
        """A tensor that stays mapped while it is in use."""
        return self._tensors[key]

    def copy(self, key: str, to: Tensor) -> None:
        """Write the first ``len(to)`` rows of a tensor to ``to``."""
        _copy_rows(self._tensors[key], to)


_KINDS: Final[Mapping[str, Callable[[Path], TensorFile]]] = {
    ".safetensors": SafetensorsFile,
    ".sft": SafetensorsFile,
    ".sfts": SafetensorsFile,
    ".pt": PickledFile,
    ".pth": PickledFile,
    ".th": PickledFile,
}


def open_tensors(path: Path) -> TensorFile:
    """A file of tensors by its suffix; raises ``CheckpointError`` where it cannot be read."""
    if path.suffix not in _KINDS:
        raise CheckpointError(f"{path}: no file of weights, by its name; these are read: {', '.join(_KINDS)}")
    return _KINDS[path.suffix](path)


def _copy_rows(tensor: Tensor, to: Tensor) -> None:
    to.copy_(tensor if tensor.shape == to.shape else tensor[: len(to)])


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
