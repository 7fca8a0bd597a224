"""A stage of training as a YAML file: which model, on what, with which losses, how fast, how long.

The stages of the Moshi paper (arXiv 2410.00037, section 4) are files in ``configs``; all are one trainer with other
values. Unknown keys and values of another type are refused, each by its place in the file.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from model_runtime.checkpoint.config_file import LoraConfig
from model_runtime.errors import LocalModelError
from model_runtime.training.distributed import Strategy
from model_runtime.training.listening import ListeningSettings
from model_runtime.training.mimi_task import MimiTaskSettings
from model_runtime.training.optimizers import OptimizerSettings
from model_runtime.training.tasks import LanguageModelTaskSettings
from model_runtime.training.trainer import TrainerSettings

T = TypeVar("T")
CONFIGS = Path(__file__).parent / "configs"


class StageError(LocalModelError):
    """A stage's file that cannot be used; the message names every fault."""


@dataclass(frozen=True)
class ModelSettings:
    """What is trained, and what it starts from."""

    checkpoint: str | None = None
    """A folder, file or ``hf://owner/name``; None: a new model with random weights."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Of a new model: keys of config.json, or for a codec fields of ``MimiConfig``; the rest is as published."""
    lora: LoraConfig | None = None
    """Train adapters and leave the checkpoint as it is."""
    lora_embeddings: bool = False
    """Train the embeddings beside the adapters."""
    acoustic_delay: int | None = None
    """Frames by which acoustic codes lag, where it is not the checkpoint's."""
    user_embeddings_from: str | None = None
    """A codec, from whose codebooks the embeddings of the caller's codes are made (reference/tiny.md, part C)."""
    user_embeddings: Literal["tables", "projected"] = "tables"
    """Whether they only start so and are learnt row by row, or only a projection of them is learnt (projected.py)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights; adapters are always float32."""
    codebooks: int = 8
    """Of a codec: how many are trained."""


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    task: Literal["language_model", "mimi"]
    optimizer: OptimizerSettings
    trainer: TrainerSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    data: Mapping[str, Any] = field(default_factory=dict)
    """What whoever opens the data reads (``train_command.OpenData``)."""
    language_model: LanguageModelTaskSettings = field(default_factory=LanguageModelTaskSettings)
    listening: ListeningSettings | None = None
    """Heads for what the caller says, where the data tell it: ``dialogues`` and ``utterances`` do."""
    mimi: MimiTaskSettings = field(default_factory=MimiTaskSettings)
    strategy: Strategy = "ddp"


def read_stage(path: Path) -> Stage:
    """The stage of a YAML file, or of one in ``configs`` by its name; raises ``StageError``."""
    known = CONFIGS / f"{path}.yaml"
    try:
        content = yaml.safe_load((path if path.exists() or not known.exists() else known).read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
        raise StageError(f"{path}: {error.strerror}; stages by name: {names}") from error
    except yaml.YAMLError as error:
        raise StageError(f"{path}: no YAML: {error}") from error
    return parse_stage(content, str(path))


def parse_stage(content: object, source: str = "stage") -> Stage:
    """The stage that a mapping describes; raises ``StageError``, which names every fault."""
    faults: list[str] = []
    stage = _read(Stage, content, "", faults)
    if faults:
        raise StageError(f"{source}: " + "; ".join(faults))
    return cast(Stage, stage)


def _read(kind: Any, value: object, place: str, faults: list[str]) -> Any:
    """``value`` as a ``kind``: a dataclass of a mapping, a tuple of a list, a literal or a plain value."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _read(next(each for each in arguments if each is not NoneType), value, place, faults)
    if isinstance(kind, type) and is_dataclass(kind):
        return read_fields(kind, value, place, faults)
    if origin is Literal:
        if value not in arguments:
            faults.append(f"{place}: one of {', '.join(map(repr, arguments))} is needed, got {value!r}")
        return value
    if origin is tuple and Ellipsis in arguments:
        arguments = arguments[:1] * (len(value) if isinstance(value, list) else 1)
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(arguments):
            faults.append(f"{place}: a list of {len(arguments)} is needed, got {value!r}")
            return value
        return tuple(_read(each, item, place, faults) for each, item in zip(arguments, value, strict=True))
    wanted = dict if origin is not None else kind
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        faults.append(f"{place}: {wanted.__name__} is needed, got {value!r}")
    return value


def read_fields(kind: type[T], value: object, place: str, faults: list[str]) -> T | None:
    """The dataclass ``kind`` of a mapping; None where ``faults`` grew, each with its ``place``."""
    if not isinstance(value, dict):
        faults.append(f"{place or 'file'}: a mapping is needed, got {value!r}")
        return None
    hints, known = get_type_hints(kind), {each.name: each for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    before = len(faults)
    prefix = f"{place}." if place else ""
    faults += [f"unknown key {prefix}{key}" for key in value if key not in known]
    faults += [
        f"{prefix}{name} is missing"
        for name, each in known.items()
        if name not in value and each.default is MISSING and each.default_factory is MISSING
    ]
    given = {name: _read(hints[name], item, prefix + name, faults) for name, item in value.items() if name in known}
    return None if len(faults) > before else kind(**given)
