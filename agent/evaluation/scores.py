"""Figures of all calls of a suite, with how sure they are. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite, sqrt
from typing import Any, Final

import numpy as np

from agent.evaluation.judge import STOPPED_S, Answer, Disturbance, Judged
from agent.evaluation.schema import ScoreName

_Z: Final = 1.959964
"""Of the normal distribution: 95 % lie within."""


@dataclass(frozen=True)
class Score:
    """A figure: a share of ``count`` with its Wilson interval, or a time in s of so many."""

    value: float | None
    """None where there is nothing to tell it by; ``inf`` where what is timed mostly never happened."""
    count: int
    low: float | None = None
    high: float | None = None

    def about(self) -> dict[str, Any]:
        """As a JSON object; what never happened is ``"never"``."""
        return {key: "never" if value == inf else value for key, value in asdict(self).items()}


Scores = Mapping[ScoreName, Score]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, without correction for continuity)."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(values: Iterable[bool | None]) -> Score:
    """Of those that are known, how many are true."""
    known = [bool(value) for value in values if value is not None]
    if not known:
        return Score(None, 0)
    return Score(sum(known) / len(known), len(known), *wilson(sum(known), len(known)))


def quantile(values: Iterable[float], part: float) -> Score:
    """The value that so many do not exceed: one of them, the higher where it lies between two."""
    known = np.array(list(values))
    if not len(known):
        return Score(None, 0)
    return Score(float(np.quantile(known, part, method="higher")), len(known))


def scored(calls: Sequence[Judged], late_s: float) -> Scores:
    """All scores of these calls; what they tell nothing of has no value."""
    answers = [answer for call in calls for answer in call.answers]
    says = [each for each in answers if each.kind == "say"]
    after = [each for each in answers if each.kind == "interrupt"]
    stops = stop_latencies(calls)
    hums = [each for each in _all(calls) if each.kind != "interrupt" and each.stop_s is not None]
    rights = [each for each in says if each.right]
    return {
        "greeting": share(call.greeting for call in calls),
        "greeting_once": share(call.greeting_once for call in calls),
        "intent": share(each.right for each in says),
        "exact": share(each.exact for each in rights),
        "exact_once": share(each.exact_once for each in rights),
        "answered": share(each.gap_s is not None for each in says),
        "early": share(each.early for each in answers),
        "gap_median_s": quantile(turn_gaps(calls), 0.5),
        "gap_p95_s": quantile(turn_gaps(calls), 0.95),
        "stopped": share(each <= STOPPED_S for each in stops),
        "stop_median_s": quantile(stops, 0.5),
        "stop_p90_s": quantile(stops, 0.9),
        "intent_after_interruption": share(each.right for each in after),
        "went_on": share(each.stop_s is not None and each.stop_s > STOPPED_S for each in hums),
        "finished": share(each.finished for each in hums),
        "false_starts": share(each.false_start for each in _all(calls)),
        "undisturbed": share(each for call in calls for each in call.undisturbed),
        "late_intent": share(each.right for each in says if each.onset_s >= late_s),
        "hung_up": share(call.hung_up for call in calls),
        "expected": share(check.met for call in calls for check in call.checks),
        "transcript": share(each for call in calls for each in call.transcript),
    }


def turn_gaps(calls: Iterable[Judged]) -> list[float]:
    """From the caller's end to the agent's voice, of all turns that were answered in time."""
    return [each.gap_s for call in calls for each in call.answers if each.gap_s is not None]


def stop_latencies(calls: Iterable[Judged]) -> list[float]:
    """From the caller's onset to the end of the agent's voice, of all interruptions; ``inf`` where it went on."""
    return [each.stop_s for each in _all(calls) if each.kind == "interrupt" and each.stop_s is not None]


def by_intent(calls: Iterable[Judged]) -> dict[str, Score]:
    """How often each intent was understood, the least understood first."""
    return _grouped(calls, lambda call, answer: answer.intent)


def by_voice(calls: Iterable[Judged]) -> dict[str, Score]:
    """How often each voice was understood: espeak-ng's variant, without its dialect; the least understood first."""
    return _grouped(calls, lambda call, answer: call.voice.rsplit("+", 1)[-1])


def finite(values: Iterable[float]) -> list[float]:
    """Those that are no ``inf``."""
    return [value for value in values if isfinite(value)]


def _all(calls: Iterable[Judged]) -> list[Disturbance]:
    return [each for call in calls for each in call.disturbances]


def _grouped(calls: Iterable[Judged], key: Callable[[Judged, Answer], str]) -> dict[str, Score]:
    found: dict[str, list[bool | None]] = {}
    for call in calls:
        for answer in call.answers:
            if answer.right is not None and answer.intent:
                found.setdefault(key(call, answer), []).append(answer.right)
    scores = {name: share(values) for name, values in found.items()}
    return dict(sorted(scores.items(), key=lambda item: (item[1].value or 0.0, item[0])))
