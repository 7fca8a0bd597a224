"""The names of tensors in published files, and those of this runtime's modules. Reads no tensors.

Two styles are published: one matrix for all sets of a depth layer (``in_proj_weight``), which is also the modules' own,
and one per set (``in_projs.{k}.weight``, written by newer code). Either may come with int8 companions (``…_scb``) or
low-rank adapters (``…lora_A.weight``).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

Family = Literal["language model", "codec", "adapters"]

_PART: Final = re.compile(r"^(?P<module>.*self_attn\.)(?P<side>in|out)_projs\.(?P<part>\d+)\.(?P<rest>.+)$")
_FUSED: Final = re.compile(r"^(?P<module>.*self_attn\.)(?P<side>in|out)_proj\.(?P<rest>.+)$")
_CODEBOOK: Final = {
    "inited": "_initialized",
    "cluster_size": "cluster_usage",
    "embed_avg": "embedding_sum",
    "embed_sum": "embedding_sum",
}
"""Old names of a codebook's buffers."""
_STEP: Final = re.compile(
    r"^(?:(?P<set>(?:depformer_in|depformer\.layers\.\d+\.gating)\.\d+)|(?P<step>(?:linears|depformer_norms)\.\d+)"
    r"|(?P<emb>depformer_emb\.\d+))\."
)


@dataclass
class Stored:
    """Where a tensor of the modules is found in a file: one key, or one per set of weights, in order."""

    keys: dict[int, str] = field(default_factory=dict)
    """By set; -1: all of them in one."""
    shortened: bool = False
    """The file has more rows than are wanted; the first ones are."""

    @property
    def whole(self) -> bool:
        """One key has it all."""
        return -1 in self.keys

    def faults(self, name: str) -> list[str]:
        """What is wrong with the collection of keys."""
        if self.whole and len(self.keys) > 1:
            return [f"{name} is there twice: {', '.join(sorted(self.keys.values()))}"]
        if not self.whole and sorted(self.keys) != list(range(len(self.keys))):
            return [f"{name} has parts {sorted(self.keys)} and lacks those between"]
        return []

    def ordered(self) -> list[str]:
        """The keys in the order in which they stand one below the other."""
        return [self.keys[part] for part in sorted(self.keys)]


def module_name(key: str) -> tuple[str, int]:
    """The modules' name for a file's key, and the set of weights that it holds; -1: all.

    Of int8 scales and adapters it is the name of the weight they belong to, with ``_scb``, ``.lora_A`` or ``.lora_B``
    behind it.
    """
    key = key.replace(".frozen_W.", ".")
    part = -1
    if match := _PART.match(key):
        part = int(match["part"])
    else:
        match = _FUSED.match(key)
    suffix = ""
    if key.endswith("_scb"):
        suffix = "_scb"
    for matrix in (".lora_A", ".lora_B"):
        if key.endswith(f"{matrix}.weight"):
            suffix = matrix
    if match:
        name = f"{match['module']}in_proj_weight" if match["side"] == "in" else f"{match['module']}out_proj.weight"
        return name + suffix, part
    if suffix.startswith(".lora"):
        return key.removesuffix(f"{suffix}.weight") + ".weight" + suffix, part
    if "._codebook." in key:
        module, _, leaf = key.rpartition(".")
        return f"{module}.{_CODEBOOK.get(leaf, leaf)}", part
    return key, part


def collect(keys: Iterable[str]) -> dict[str, Stored]:
    """Where each tensor of the modules is found among a file's keys."""
    found: dict[str, Stored] = {}
    for key in keys:
        name, part = module_name(key)
        stored = found.setdefault(name, Stored())
        while part in stored.keys:  # a doublet, which ``Stored.faults`` reports
            part = -1 if part != -1 else -2
        stored.keys[part] = key
    return found


def generated_streams(names: Iterable[str]) -> int:
    """How many audio streams a file's language model generates: its output heads."""
    return sum(1 for name in names if re.fullmatch(r"linears\.\d+\.weight", name))


def beyond(name: str, steps: int, sets: int) -> bool:
    """Whether a tensor belongs to depth steps from ``steps`` on, or to sets of weights from ``sets`` on."""
    match = _STEP.match(name)
    if match is None:
        return False
    limits = (("set", sets), ("step", steps), ("emb", steps - 1))
    return any(match[group] and int(match[group].rpartition(".")[2]) >= limit for group, limit in limits)


def family(names: Iterable[str]) -> Family | str:
    """What a file holds, judged by the names in it; anything but a ``Family`` is a description of what it is not."""
    known = set(names)

    def some(*patterns: str) -> bool:
        return any(re.match(pattern, name) for pattern in patterns for name in known)

    if known and all(".lora_" in name or "frozen_W" in name for name in known):
        return "adapters"
    if some(r"quantizer\.rvq_first\.", r"decoder_transformer\.transformer\."):
        return "codec"
    if some(r"depformer\.\d+\.", r"quantizer\.semantic_", r"audio_embs\.", r"model\.", r"decoder\.model\.embed"):
        return "a model in another layout (candle, MLX or transformers); the PyTorch release is needed"
    if some(r"text_emb\.", r"transformer\.layers\.", r"depformer"):
        return "language model"
    return "no model of this family"
