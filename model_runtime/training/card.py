"""The README of an embedded checkpoint: what it is, how it was made, how good it is. Owns no tensors."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from model_runtime.training.closed_loop import Scores
from model_runtime.training.log import read_rows
from model_runtime.training.synthetic.script import World

_STAGES: Final = {
    "codec": ("spectral", "distillation"),
    "voice": ("spectral",),
    "hearing": ("heard_right",),
    "listening": ("heard_right", "meant_right"),
    "dialogue": ("text", "audio", "heard_right", "meant_right"),
}
_FIGURES: Final = {
    "greeting": "greeted in the right words",
    "intent": "answered what was asked (first three words)",
    "exact": "answered in exactly the right words",
    "early": "answered before the caller had finished",
    "silent": "did not answer",
}
_SETS: Final = {"held": "unheard voices, phrasings seen", "unseen": "unheard voices, phrasings never seen"}


def write_card(folder: Path, out: Path, recipe: Any, world: World, scores: Mapping[str, Scores]) -> Path:
    """Write ``README.md`` into ``folder``, from the logs of the runs in ``out``; ``recipe`` is a dataclass."""
    path = folder / "README.md"
    path.write_text("\n".join(_lines(folder, out, asdict(recipe), world, scores)) + "\n", encoding="utf-8")
    return path


def _lines(folder: Path, out: Path, recipe: Mapping[str, Any], world: World, scores: Mapping[str, Scores]) -> list[str]:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    lines = [
        f"# Embedded agent: {world.name}",
        "",
        f"A small Mimi and Moshi, {size:.1f} MB, trained by `denwa train embedded` on speech of espeak-ng alone.",
        f"It knows {len(world.intents)} intents of one world, and {len(world.agent_words)} words; of a greeting that",
        "is given to it, it can say only those. Human voices were neither trained on nor tested.",
        "",
        "## How it was made",
        "",
        "`denwa train embedded OUT --minutes N` with the N that gives this:",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {value:g} |" for name, value in recipe.items()),
        "",
        "## Figures",
        "",
        "Greedy, one question in each dialogue, on codes: no barge-in, no echo, nothing decoded.",
        "",
        "| | " + " | ".join(f"{_SETS.get(name, name)} (n={each.dialogues})" for name, each in scores.items()) + " |",
        "|---|" + "---|" * len(scores),
    ]
    for name, text in _FIGURES.items():
        lines.append(f"| {text} | " + " | ".join(f"{getattr(each, name):.3f}" for each in scores.values()) + " |")
    lines.append("| median gap, s | " + " | ".join(f"{each.gap_s:.2f}" for each in scores.values()) + " |")
    lines += ["", "Last held-out values of each stage (`held_out.csv`):", ""]
    for stage, names in _STAGES.items():
        rows = read_rows(out / stage / "held_out.csv")
        known = [f"{name} {float(rows[-1][name]):.3f}" for name in names if rows and name in rows[-1]]
        if known:
            lines.append(f"- {stage}, step {rows[-1]['step']}: {', '.join(known)}")
    return lines
