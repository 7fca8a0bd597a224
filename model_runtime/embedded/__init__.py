"""Model files that ship with Denwa; see README.md here for how they were made.

Imports no torch: the gateway asks too.
"""

from pathlib import Path
from typing import Final

from model_runtime.errors import CheckpointError

PREFIX: Final = "embedded:"
FRONT_DESK: Final = "embedded:front-desk"
"""The trained small model that answers by default."""
TOKENIZER: Final = "tokenizer.model"
"""The text tokenizer's file in each of the folders."""

_FOLDERS: Final = {FRONT_DESK: Path(__file__).parent / "front_desk"}


def embedded_folder(reference: str) -> Path:
    """The folder of a checkpoint named ``embedded:NAME``.

    Raises ``CheckpointError`` where Denwa has none of that name, and where this installation lacks its files.
    """
    folder = _FOLDERS.get(reference)
    if folder is None:
        raise CheckpointError(f"{reference}: no such checkpoint comes with Denwa; there are: {', '.join(_FOLDERS)}")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{reference}: this installation lacks its files, which belong into {folder}; install Denwa anew, "
            "or name another checkpoint"
        )
    return folder
