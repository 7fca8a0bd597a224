"""A checkpoint's config.json: which files it is made of, and what the model in them looks like. Reads no tensors.

One JSON object holds the language model's hyper-parameters and, beside them, names of files and settings of other
parts. What it leaves out has the published value of the 7B (``checkpoint.config``), as has a checkpoint without the
file. A key that stands for something this runtime does not compute is refused, never ignored.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args

from model_runtime.checkpoint.condition import Condition
from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig, Norm, Rope, SeanetConfig
from model_runtime.errors import CheckpointError

ModelType = Literal["moshi", "personaplex", "hibiki", "stt"]
"""Converses; converses with a persona; translates; only listens and writes."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685) that belong on top of the weights."""

    rank: int = 128
    scaling: float = 2.0


@dataclass(frozen=True)
class CheckpointConfig:
    """What a config.json says; names are of files beside it, ``hf://owner/name/path`` or ``file://path``."""

    lm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    model_type: ModelType = "moshi"
    moshi_name: str = "model.safetensors"
    mimi_name: str = "tokenizer-e351c8d8-checkpoint125.safetensors"
    mimi_config_name: str | None = None
    tokenizer_name: str = "tokenizer_spm_32k_3.model"
    lora_name: str = "lora.safetensors"
    lora: LoraConfig | None = None
    condition: Condition | None = None
    quantize: bool = False
    lm_gen_config: Mapping[str, object] = field(default_factory=dict)
    """How the authors draw tokens: temp, temp_text, top_k, top_k_text."""
    stt_config: Mapping[str, object] = field(default_factory=dict)
    """Of speech-to-text: audio_delay_seconds, audio_silence_prefix_seconds."""

    @property
    def codebooks(self) -> int:
        """Codebooks of Mimi that the language model reads or writes."""
        return max(self.lm.dep_q, self.lm.n_q - self.lm.dep_q)


_NAMES: Final = ("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name")
_IGNORED: Final = {
    "model_id": "where the weights come from",
    "version": "of PersonaPlex, whose file counts downloads",
    "depformer_causal": "it always is",
    "depformer_context": "a depth step sees all earlier ones",
    "depformer_max_period": "the depth transformer has no positions",
    "gradient_checkpointing": "of training",
    "same_initial": "of training",
}
_FIXED: Final[Mapping[str, tuple[object, ...]]] = {
    "causal": (True,),
    "layer_scale": (None,),
    "gating": ("silu",),
    "norm_emb": (False,),
    "bias_proj": (False,),
    "cross_attention": (False,),
    "demux_second_text_stream": (False,),
    "existing_text_padding_id": (3,),
    "existing_text_end_padding_id": (0,),
    "depformer_layer_scale": (None,),
    "depformer_gating": ("silu",),
    "depformer_pos_emb": ("none",),
    "depformer_multi_linear": (True,),
    "depformer_weights_per_step": (True,),
}
"""Keys of which this runtime computes these values alone."""
_SHAPES: Final = {each.name for each in fields(LanguageModelConfig)}
_OTHERS: Final = {
    *("model_type", "quantize", "lora", "lora_rank", "lora_scaling"),
    *("lm_gen_config", "stt_config", "conditioners", "fuser"),
}
_CHOICES: Final[Mapping[str, tuple[object, ...]]] = {
    "norm": get_args(Norm),
    "depformer_norm": (*get_args(Norm), None),
    "positional_embedding": get_args(Rope),
}


def read_config(path: Path) -> CheckpointConfig:
    """The config of a config.json; raises ``CheckpointError`` that names every fault."""
    return parse_config(_read_json(path), str(path))


def parse_config(keys: Mapping[str, object], source: str = "config.json") -> CheckpointConfig:
    """What the keys of a config.json mean; ``source`` is named in the ``CheckpointError``, with every fault."""
    keys = dict(keys)
    if "demux_second_stream" in keys:  # its older name
        keys["demux_second_text_stream"] = keys.pop("demux_second_stream")
    model_type = keys.get("model_type", "moshi")
    if model_type not in get_args(ModelType):
        known = ", ".join(get_args(ModelType))
        raise CheckpointError(f"{source}: model_type {model_type!r} is none of those that run here: {known}")
    faults = [*_unknown(keys), *_not_computed(keys)]
    shapes = {key: value for key, value in keys.items() if key in _SHAPES}
    faults += _mistyped(shapes)
    faults += [
        f"{key}: a name is needed, got {keys[key]!r}"
        for key in _NAMES
        if keys.get(key) is not None and not isinstance(keys[key], str)
    ]
    if faults:
        raise CheckpointError(f"{source}: " + "; ".join(faults))
    try:
        condition = Condition.parse(keys.get("conditioners"), keys.get("fuser"))
        lm = LanguageModelConfig(**_completed(shapes, str(model_type)))
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    chosen: dict[str, Any] = {key: keys[key] for key in _NAMES if keys.get(key) is not None}
    chosen |= {key: keys[key] for key in ("lm_gen_config", "stt_config") if isinstance(keys.get(key), dict)}
    return CheckpointConfig(
        lm=lm,
        model_type=model_type,  # type: ignore[arg-type]  # checked above
        quantize=bool(keys.get("quantize", False)),
        lora=_lora(keys, source),
        condition=condition,
        **chosen,
    )


def read_mimi_config(path: Path) -> MimiConfig:
    """The codec's shape of a ``mimi_config_name`` file; raises ``CheckpointError``."""
    keys = _read_json(path)
    try:
        seanet, transformer, quantizer = keys["seanet"], keys["transformer"], keys["quantizer"]
        return MimiConfig(
            seanet=SeanetConfig(
                dimension=seanet["dimension"],
                n_filters=seanet["n_filters"],
                ratios=tuple(seanet["ratios"]),
                kernel_size=seanet["kernel_size"],
                residual_kernel_size=seanet["residual_kernel_size"],
                last_kernel_size=seanet["last_kernel_size"],
                compress=seanet.get("compress", 2),
            ),
            num_heads=transformer["num_heads"],
            num_layers=transformer["num_layers"],
            dim_feedforward=transformer["dim_feedforward"],
            context=transformer["context"],
            max_period=transformer["max_period"],
            codebook_dim=quantizer["dimension"],
            bins=quantizer["bins"],
            n_q=quantizer["n_q"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: no shape of a Mimi codec: {error!r}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        keys = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: no JSON: {error}") from error
    if not isinstance(keys, dict):
        raise CheckpointError(f"{path}: a JSON object is needed, this is a {type(keys).__name__}")
    return keys


def _unknown(keys: Mapping[str, object]) -> list[str]:
    known = [*_SHAPES, *_NAMES, *_IGNORED, *_FIXED, *_OTHERS]
    faults = []
    for key in sorted(set(keys).difference(known)):
        near = get_close_matches(key, known, n=1)
        faults.append(f"unknown key {key!r}" + (f" (is it {near[0]}?)" if near else ""))
    return faults


def _not_computed(keys: Mapping[str, object]) -> list[str]:
    listens = keys.get("dep_q") == 0  # then what is said of a depth transformer says nothing
    allowed = {key: values for key, values in _FIXED.items() if not (listens and key.startswith("depformer_"))}
    return [
        f"{key} {keys[key]!r} is not computed here, only {' or '.join(map(repr, values))}"
        for key, values in {**allowed, **_CHOICES}.items()
        if key in keys and keys[key] not in values
    ]


def _mistyped(shapes: Mapping[str, object]) -> list[str]:
    faults = []
    for key, value in shapes.items():
        if key in _CHOICES:
            continue
        if key == "user_convolutions":
            fits = isinstance(value, list) and all(type(item) is int and 1 <= item <= _LONGEST for item in value)
            wanted = f"a list of integers from 1 to {_LONGEST}"
        elif key in ("delays", "depformer_weights_per_step_schedule"):
            fits = isinstance(value, list) and all(type(item) is int for item in value)
            wanted = "a list of integers"
        elif key in ("hidden_scale", "max_period"):
            fits = type(value) in (int, float) and float(str(value)) > 0
            wanted = "a number above 0"
        else:
            least = 0 if key in ("dep_q", "extra_heads_num_heads") else 1
            fits = type(value) is int and least <= value <= _MOST
            wanted = f"an integer of at least {least}"
        optional = value is None and key in ("text_card_out", *_OPTIONAL)
        if key == "depformer_dim_feedforward" and isinstance(value, list):
            fits, wanted = len(set(map(str, value))) == 1, "one width for all depth steps"
        if not (fits or optional):
            faults.append(f"{key}: {wanted} is needed, got {value!r}")
    return faults


_MOST: Final = 2**20  # what is larger is no model's size
_LONGEST: Final = 64  # frames: 5 s
_OPTIONAL: Final = (
    "depformer_weights_per_step_schedule",
    "depformer_low_rank_embeddings",
    "depformer_dim_feedforward",
)


def _completed(shapes: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The shapes with what follows from them: depth values that are inherited, the published delays."""
    full = dict(shapes)
    for key in _LISTS:
        if full.get(key) is not None:
            full[key] = tuple(full[key])
    width = full.get("depformer_dim_feedforward")
    if isinstance(width, list):
        full["depformer_dim_feedforward"] = width[0]
    elif width is None and ("hidden_scale" in full or "depformer_dim" in full):
        scale = full.get("hidden_scale", LanguageModelConfig.hidden_scale)
        full["depformer_dim_feedforward"] = int(scale * full.get("depformer_dim", LanguageModelConfig.depformer_dim))
    if "kv_repeat" in full:
        full.setdefault("depformer_kv_repeat", full["kv_repeat"])
    if model_type != "stt" and full.get("dep_q") == full.get("n_q", LanguageModelConfig.n_q) and full["dep_q"] > 1:
        # PersonaPlex predicts the user's codes too; nobody needs them, and no earlier code depends on them.
        full["dep_q"] //= 2
        schedule = full.get("depformer_weights_per_step_schedule")
        if schedule:
            full["depformer_weights_per_step_schedule"] = schedule[: full["dep_q"]]
    return full


_LISTS: Final = ("delays", "depformer_weights_per_step_schedule", "user_convolutions")


def _lora(keys: Mapping[str, object], source: str) -> LoraConfig | None:
    if not keys.get("lora"):
        if keys.get("lora_name"):
            raise CheckpointError(f"{source}: lora_name is given, but lora is not true")
        return None
    if keys.get("quantize"):
        raise CheckpointError(f"{source}: lora and quantize exclude each other: adapters need the unquantized weights")
    rank, scaling = keys.get("lora_rank", LoraConfig.rank), keys.get("lora_scaling", LoraConfig.scaling)
    if type(rank) is not int or type(scaling) not in (int, float):
        raise CheckpointError(f"{source}: lora_rank and lora_scaling: numbers are needed, got {rank!r} and {scaling!r}")
    return LoraConfig(rank, float(str(scaling)))
