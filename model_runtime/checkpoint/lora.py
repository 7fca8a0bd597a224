"""Low-rank adapters (arXiv 2106.09685), merged into the weights at load: ``W + scaling * B @ A``. Owns their file."""

from collections.abc import Mapping

import torch
from torch import Tensor

from model_runtime.checkpoint.config_file import LoraConfig
from model_runtime.checkpoint.names import Stored, collect
from model_runtime.checkpoint.tensor_file import Shape, TensorFile

DOWN = ".lora_A"
UP = ".lora_B"


class Adapters:
    """The adapters of one file, which may also hold whole tensors that replace those they were trained with."""

    def __init__(self, file: TensorFile, config: LoraConfig) -> None:
        self.file = file
        self._config = config
        self._found = collect(file.shapes)
        self.replacing: dict[str, Stored] = {
            name: stored for name, stored in self._found.items() if not name.endswith((DOWN, UP))
        }
        """Whole tensors, by the modules' names."""

    def faults(self, wanted: Mapping[str, Shape]) -> list[str]:
        """Every adapter that does not fit the modules' tensors."""
        faults = []
        for name, stored in self._found.items():
            faults += stored.faults(name)
            base = name.removesuffix(DOWN).removesuffix(UP)
            if base not in wanted:
                faults.append(f"{', '.join(stored.ordered())}: the model has nothing of this name")
            elif name != base:
                other = base + (UP if name.endswith(DOWN) else DOWN)
                if other not in self._found:
                    faults.append(f"{name} comes without {other}")
                elif name.endswith(DOWN):
                    faults += self._misshapen(base, wanted[base])
        return faults

    def add(self, name: str, weight: Tensor) -> Tensor:
        """The ``weight [out, in]`` with its adapter's product added in float32; itself where it has none."""
        if name + DOWN not in self._found:
            return weight
        down, up = self._read(name + DOWN, weight.device), self._read(name + UP, weight.device)
        sets = down.shape[0] // self._config.rank  # one per step in the depth transformer's fused matrices
        product = up.view(sets, -1, self._config.rank) @ down.view(sets, self._config.rank, -1)  # [sets, out, in]
        merged = weight.float() + self._config.scaling * product.flatten(0, 1)[: len(weight)]
        return merged.to(weight.dtype)

    def touches(self, name: str) -> bool:
        """Whether a tensor has an adapter."""
        return name + DOWN in self._found

    def _shape(self, name: str) -> Shape:
        shapes = [self.file.shapes[key] for key in self._found[name].ordered()]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _misshapen(self, base: str, wanted: Shape) -> list[str]:
        down, up, rank = self._shape(base + DOWN), self._shape(base + UP), self._config.rank
        sets = down[0] // rank
        fits = (
            down == (sets * rank, wanted[-1])
            and len(up) == 2
            and up[1] == rank
            and sets > 0
            and up[0] % sets == 0
            and up[0] >= wanted[0]
        )
        return (
            [] if fits else [f"{base}: adapters {list(down)} and {list(up)} of rank {rank} do not fit {list(wanted)}"]
        )

    def _read(self, name: str, device: torch.device) -> Tensor:
        out = torch.empty(self._shape(name), device=device)
        start = 0
        for key in self._found[name].ordered():
            rows = self.file.shapes[key][0]
            self.file.copy(key, out[start : start + rows])
            start += rows
        return out
