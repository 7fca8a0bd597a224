"""Holds the calls of a suite and of its controls on a line, judges each as it is over, and keeps its sound if asked.

Plans are made one by one, when their turn comes: speech for all callers would fill the memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.evaluation.judge import Judged, judge
from agent.evaluation.plan import Planner
from agent.evaluation.recogniser import Recogniser
from agent.evaluation.replies import Replies
from agent.evaluation.report import REAL, Results
from agent.evaluation.schema import Suite
from agent.evaluation.talk import Held, Line
from model_runtime.training.recordings import write_wav
from model_runtime.training.synthetic.script import World

Progress = Callable[[str], None]
_AUDIO: Final = "audio"


def run_suite(
    suite: Suite,
    world: World,
    line: Line,
    replies: Replies,
    *,
    how: Mapping[str, Any],
    progress: Progress,
    keep_audio: Path | None = None,
    recogniser: Recogniser | None = None,
) -> Results:
    """All calls of a suite, each beside those of its controls; ``keep_audio`` is a folder for their sound."""
    variants = (None, *suite.controls)
    judged: dict[str, list[Judged]] = {control or REAL: [] for control in variants}
    planned = suite.dialogues * len(variants)

    def told(held: Held) -> None:
        variant = held.plan.control or REAL
        if keep_audio is not None and len(held.agent):
            _keep(held, keep_audio / _AUDIO / f"{variant}-{held.plan.number:04}.wav")
        verdict = judge(held, suite, replies, world.greeting)
        if recogniser is not None and len(held.agent):
            verdict = replace(verdict, transcript=recogniser.check(held))
        judged[variant].append(verdict)
        progress(f"{suite.name}: {sum(len(each) for each in judged.values())} of {planned} calls")

    planner = Planner(suite, world, replies)
    plans = (planner.plan(number, control) for number in range(suite.dialogues) for control in variants)
    line.hold(plans, suite, told)
    return Results(suite, how, {name: sorted(calls, key=lambda each: each.number) for name, calls in judged.items()})


def _keep(held: Held, path: Path) -> None:
    """Left the agent, right the caller."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, np.stack([held.agent, held.caller]).astype(np.float32) / np.float32(32_768))
