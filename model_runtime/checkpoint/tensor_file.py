"""Files of named tensors, read one at a time through a memory mapping. Used by whoever loads a model.

A mapping's pages count as this process's memory for as long as the mapping lives. So a file is mapped anew for every
tensor that is copied elsewhere; only what stays as it is, on the CPU, keeps its mapping.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

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
        self._kept: Any = None
        with _opened(path) as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118  # not a mapping
            self.shapes: Mapping[str, Shape] = {key: tuple(each.get_shape()) for key, each in slices.items()}
            self._dtypes = {key: each.get_dtype() for key, each in slices.items()}

    def dtype(self, key: str) -> torch.dtype:
        """The type of a tensor."""
        name = self._dtypes[key]
        if name not in _DTYPES:
            raise CheckpointError(f"{self.path}: {key}: type {name} cannot be read here")
        return _DTYPES[name]

    def map(self, key: str) -> Tensor:
        """A tensor that stays mapped while it is in use."""
        if self._kept is None:
            self._kept = safe_open(self.path, framework="pt")
        tensor: Tensor = self._kept.get_tensor(key)
        return tensor

    def copy(self, key: str, to: Tensor) -> None:
        """Write the first ``len(to)`` rows of a tensor to ``to``; of the mapping nothing stays."""
        with _opened(self.path) as tensors:
            tensor: Tensor = tensors.get_tensor(key)
            to.copy_(tensor if tensor.shape == to.shape else tensor[: len(to)])


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
        tensor = self._tensors[key]
        to.copy_(tensor if tensor.shape == to.shape else tensor[: len(to)])


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


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated, corrupt or no safetensors file at all: {_line(error)}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or _line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
