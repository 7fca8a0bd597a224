"""What is left of an evaluation: results.json, report.md with its pictures, dialogues.jsonl. Writes files."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Final

from agent.evaluation.histogram import histogram
from agent.evaluation.judge import STOPPED_S, Judged
from agent.evaluation.schema import Requirement, ScoreName, Suite
from agent.evaluation.scores import Score, Scores, by_intent, by_voice, finite, scored, stop_latencies, turn_gaps

REAL: Final = "real"
_STOP_MEDIAN_S: Final = 0.45
_WORDS: Final[Mapping[ScoreName, str]] = {
    "greeting": "greeted in exactly the right words",
    "greeting_once": "the same, repeated words counted once",
    "intent": "turns answered with the right reply",
    "exact": "of those, in exactly its words",
    "exact_once": "the same, repeated words counted once",
    "answered": "turns after which the agent spoke in time",
    "early": "replies begun before the caller had finished",
    "gap_median_s": "turn gap, median",
    "gap_p95_s": "turn gap, 95th percentile",
    "stopped": f"interruptions after which the agent fell silent within {STOPPED_S} s",
    "stop_median_s": "stop latency, median",
    "stop_p90_s": "stop latency, 90th percentile",
    "intent_after_interruption": "interruptions answered with the right reply",
    "went_on": "back-channels and noises that did not stop the agent",
    "finished": "the same, its reply said to its last word",
    "false_starts": "noises in silence that made the agent speak",
    "undisturbed": "things said that neither broke off nor were followed by another",
    "late_intent": "turns answered with the right reply, late in the call",
    "hung_up": "calls that the agent ended where it should",
    "expected": "expectations of the suite met",
    "transcript": "sentences of the text stream that a recogniser heard",
}
_OF_CONTROLS: Final = ("greeting", "answered", "stopped", "stop_median_s", "stop_p90_s", "went_on", "finished")
_ALSO_OF_CONTROLS: Final = ("false_starts", "undisturbed")
_EXAMPLES: Final = 12


@dataclass(frozen=True)
class Verdict:
    """A requirement, what was measured, and whether it is met."""

    requirement: Requirement
    score: Score
    met: bool

    def __str__(self) -> str:
        """One line, as it is printed."""
        asked = self.requirement
        bounds = [f"at least {asked.least:g}"] if asked.least is not None else []
        bounds += [f"at most {asked.most:g}"] if asked.most is not None else []
        where = f" ({asked.control})" if asked.control else ""
        return f"{'met' if self.met else 'NOT MET'}: {asked.score}{where} {_value(self.score)}, {' and '.join(bounds)}"


@dataclass(frozen=True)
class Results:
    """A suite's calls, by the control that they were (``real`` for none), and all that follows from them."""

    suite: Suite
    how: Mapping[str, Any]
    """On what line, with which model or gateway, when."""
    calls: Mapping[str, Sequence[Judged]]

    def scores(self) -> dict[str, Scores]:
        """The scores of each variant."""
        return {variant: scored(calls, self.suite.late_s) for variant, calls in self.calls.items()}

    def verdicts(self) -> list[Verdict]:
        """Each requirement: a score without a value does not meet it; those of controls not held are left out."""
        scores, verdicts = self.scores(), []
        for asked in self.suite.require:
            variant = asked.control or REAL
            if variant not in scores:
                continue
            score = scores[variant][asked.score]
            met = score.value is not None and (asked.least is None or score.value >= asked.least)
            met = met and score.value is not None and (asked.most is None or score.value <= asked.most)
            verdicts.append(Verdict(asked, score, met))
        return verdicts

    @property
    def faults(self) -> list[str]:
        """Calls that could not be held or judged."""
        return [f"{each.number}: {each.fault}" for calls in self.calls.values() for each in calls if each.fault]

    @property
    def good(self) -> bool:
        """Whether every requirement is met, and every call was held."""
        return not self.faults and all(each.met for each in self.verdicts())


def write(results: Results, folder: Path) -> Path:
    """Write everything into ``folder``; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(_about(results), indent=1) + "\n", encoding="utf-8")
    with (folder / "dialogues.jsonl").open("w", encoding="utf-8") as file:
        for variant, calls in results.calls.items():
            file.writelines(json.dumps(_plain({"variant": variant, **asdict(each)})) + "\n" for each in calls)
    (folder / "gaps.svg").write_text(_gaps(results), encoding="utf-8")
    if any(stop_latencies(calls) for calls in results.calls.values()):
        (folder / "stops.svg").write_text(_stops(results), encoding="utf-8")
    page = folder / "report.md"
    page.write_text("\n".join(_page(results, folder)) + "\n", encoding="utf-8")
    return page


def summary(results: Results) -> str:
    """What is printed when a suite is through."""
    scores = results.scores()
    lines = [f"{results.suite.name}: {', '.join(f'{len(calls)} {name}' for name, calls in results.calls.items())}"]
    width = max(len(name) for name in _WORDS)
    for name in _WORDS:
        cells = [
            f"{variant} {_value(each[name])}" for variant, each in scores.items() if _shown(name, variant, each[name])
        ]
        if cells:
            lines.append(f"  {name:{width}}  {'   '.join(cells)}")
    lines += [f"  {verdict}" for verdict in results.verdicts()]
    lines += [f"  call {fault}" for fault in results.faults[:3]]
    return "\n".join(lines)


def _about(results: Results) -> dict[str, Any]:
    return {
        "suite": results.suite.model_dump(mode="json"),
        "how": dict(results.how),
        "scores": {
            variant: {name: score.about() for name, score in scores.items()}
            for variant, scores in results.scores().items()
        },
        "by_intent": {name: score.about() for name, score in by_intent(results.calls[REAL]).items()},
        "by_voice": {name: score.about() for name, score in by_voice(results.calls[REAL]).items()},
        "requirements": [
            {**each.requirement.model_dump(), "value": each.score.about()["value"], "met": each.met}
            for each in results.verdicts()
        ],
        "faults": results.faults,
        "good": results.good,
    }


def _page(results: Results, folder: Path) -> Iterator[str]:
    suite, scores = results.suite, results.scores()
    yield f"# {suite.name}\n"
    if suite.about:
        yield f"{suite.about.strip()}\n"
    how = ", ".join(f"{name}: {value}" for name, value in results.how.items())
    yield f"{how}; voices: {suite.voices}, seed: {suite.seed}.\n"
    variants = list(results.calls)
    yield f"| score | {' | '.join(variants)} | what it is |"
    yield f"|---|{'---|' * len(variants)}---|"
    for name, words in _WORDS.items():
        cells = [_cell(scores[each][name]) if _shown(name, each, scores[each][name]) else "" for each in variants]
        if any(cells):
            yield f"| `{name}` | {' | '.join(cells)} | {words} |"
    yield "\nShares with their 95 % interval (Wilson) and how many they are of; times in seconds.\n"
    if verdicts := results.verdicts():
        yield "## Requirements\n"
        yield from (f"- {verdict}" for verdict in verdicts)
        yield ""
    if faults := results.faults:
        yield f"## {len(faults)} calls that were not held or judged\n"
        yield from (f"- {fault}" for fault in faults[:_EXAMPLES])
        yield ""
    yield from _left_out(results.calls)
    yield "![Turn gaps](gaps.svg)\n"
    if (folder / "stops.svg").is_file():
        yield "![Stop latencies](stops.svg)\n"
    for title, groups in (("intent", by_intent(results.calls[REAL])), ("voice", by_voice(results.calls[REAL]))):
        if groups:
            yield f"## By {title}\n\n| {title} | right |\n|---|---|"
            yield from (f"| {name} | {_cell(score)} |" for name, score in groups.items())
            yield ""
    yield from _wrong(results.calls[REAL])


def _left_out(variants: Mapping[str, Sequence[Judged]]) -> Iterator[str]:
    """What callers could not do, and why."""
    counts = Counter((name, why) for name, calls in variants.items() for call in calls for why in call.left_out)
    if counts:
        yield "## What callers could not do\n\n| calls | what, and why | times |\n|---|---|---|"
        yield from (f"| {name} | {why} | {count} |" for (name, why), count in counts.most_common())
        yield ""


def _wrong(calls: Sequence[Judged]) -> Iterator[str]:
    """Some answers that were wrong."""
    wrong = [(call, answer) for call in calls for answer in call.answers if answer.right is False]
    if wrong:
        yield f"## Wrong answers, {min(len(wrong), _EXAMPLES)} of {len(wrong)}\n"
        yield "| call | caller | right | said |\n|---|---|---|---|"
        for call, answer in wrong[:_EXAMPLES]:
            said = answer.said.replace("|", "/") or "(nothing)"
            yield f"| {call.number} | {answer.asked} | {answer.expected} | {said} |"


def _gaps(results: Results) -> str:
    named = [(name, finite(turn_gaps(calls))) for name, calls in results.calls.items()]
    return histogram("From the caller's end to the agent's voice", [each for each in named if each[1]])


def _stops(results: Results) -> str:
    named = [(name, finite(stop_latencies(calls))) for name, calls in results.calls.items()]
    return histogram("From the caller's onset to the agent's silence", named, (_STOP_MEDIAN_S, STOPPED_S))


def _shown(name: str, variant: str, score: Score) -> bool:
    return score.value is not None and (variant == REAL or name in _OF_CONTROLS or name in _ALSO_OF_CONTROLS)


def _value(score: Score) -> str:
    if score.value is None:
        return "-"
    if score.low is None:
        return "never" if score.value == inf else f"{score.value:.2f} s"
    return f"{score.value:.1%}"


def _cell(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{_value(score)} ({score.count})"
    return f"{_value(score)} ({score.low:.0%} to {score.high:.0%} of {score.count})"


def _plain(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return "never" if value == inf else round(value, 4)
    return value
