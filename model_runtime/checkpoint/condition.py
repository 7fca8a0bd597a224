"""A condition that is the same in every step (Hibiki's grade of quality), merged into the text embedding at load.

The reference adds one vector to the temporal transformer's input in each step. Each step has one text token, so adding
it to every row of the text embedding does the same, and costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from model_runtime.checkpoint.names import Stored
from model_runtime.checkpoint.tensor_file import TensorFile
from model_runtime.errors import CheckpointError

PREFIX: Final = "condition_provider."
WANTED: Final = "very_good"
"""The value that the reference asks for."""


@dataclass(frozen=True)
class Condition:
    """A table of values, of which one is chosen for good."""

    name: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, conditioners: object, fuser: object) -> "Condition | None":
        """What the keys ``conditioners`` and ``fuser`` of a config.json mean; raises ``ValueError``."""
        uses = fuser if isinstance(fuser, dict) else {}
        if uses.get("cross") or uses.get("prepend"):
            raise ValueError("fuser: conditions that are crossed or prepended are not computed here, only summed ones")
        if not conditioners:
            return None
        if not isinstance(conditioners, dict) or list(conditioners) != uses.get("sum"):
            raise ValueError("conditioners: one table that fuser sums is computed here, and no other")
        (name, kind), *more = conditioners.items()
        table = kind.get("lut") if isinstance(kind, dict) else None
        values = table.get("possible_values") if isinstance(table, dict) else None
        if more or not isinstance(values, list) or WANTED not in values:
            raise ValueError(f"conditioners: one table (lut) with the value {WANTED} is computed here, and no other")
        return cls(name, tuple(map(str, values)))

    def vector(self, file: TensorFile, found: Mapping[str, Stored], dim: int) -> Tensor:
        """What is added to each step's input, ``[dim]`` float32; raises ``CheckpointError``."""
        module = f"{PREFIX}conditioners.{self.name}."
        table, projection = (_read(file, found, module + leaf) for leaf in ("embed.weight", "output_proj.weight"))
        if projection.shape != (dim, table.shape[-1]) or len(table) <= self.values.index(WANTED):
            raise CheckpointError(
                f"{file.path}: {module}*: {list(table.shape)} and {list(projection.shape)} do not fit a width of {dim}"
            )
        return projection @ table[self.values.index(WANTED)]


def _read(file: TensorFile, found: Mapping[str, Stored], name: str) -> Tensor:
    if name not in found:
        raise CheckpointError(f"{file.path}: does not fit its model:\n  missing (1): {name}")
    key = found[name].ordered()[0]
    out = torch.empty(file.shapes[key])
    file.copy(key, out)
    return out
