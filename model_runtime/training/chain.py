"""Things that are made one from another, each in a folder of its own that tells what it was made of. Owns the folders.

What is there and was made of the same is not made again; what is there and was made of something else is never
overwritten.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from model_runtime.errors import LocalModelError

MADE: Final = "made.json"


class ChainError(LocalModelError):
    """A folder holds something else than what is to be made; the message names both."""


@dataclass(frozen=True, slots=True)
class Made:
    """A folder that is done, and a digest of all that went into it."""

    folder: Path
    digest: str


def make(folder: Path, settings: Mapping[str, Any], needed: Mapping[str, str], build: Callable[[], object]) -> Made:
    """What ``build`` leaves in ``folder``; it is called again only until it has once come to its end.

    ``settings`` can be written as JSON; ``needed`` are digests of what it is made from. Raises ``ChainError`` and what
    ``build`` raises.
    """
    made_of = json.loads(json.dumps({"settings": settings, "needed": needed}))
    digest = sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    record = folder / MADE
    if record.is_file():
        before = json.loads(record.read_bytes())
        if before["made_of"] != made_of:
            raise ChainError(f"{folder}: made with other settings; remove it, or name another folder to train in")
        if before["done"]:
            return Made(folder, digest)
    folder.mkdir(parents=True, exist_ok=True)
    _write(record, made_of, done=False)
    build()
    _write(record, made_of, done=True)
    return Made(folder, digest)


def digest_of(*files: Path) -> str:
    """A digest of what files hold."""
    together = sha256()
    for file in files:
        together.update(sha256(file.read_bytes()).digest())
    return together.hexdigest()[:16]


def _write(record: Path, made_of: Mapping[str, Any], *, done: bool) -> None:
    part = record.with_suffix(".part")
    part.write_text(json.dumps({"done": done, "made_of": made_of}, indent=2) + "\n")
    part.replace(record)
