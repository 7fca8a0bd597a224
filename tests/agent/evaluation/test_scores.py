"""agent/evaluation/scores.py and report.py: figures, their intervals, and whether requirements are met."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from agent.evaluation.judge import Answer, Disturbance, Judged
from agent.evaluation.report import Results, summary, write
from agent.evaluation.schema import Suite
from agent.evaluation.scores import by_intent, quantile, scored, share, wilson

CALL = Judged(0, None, "gmw/en+m5", "", "", 10.0, greeting=True, greeting_once=True)
ANSWER = Answer("say", "hours", "are you open", "Yes.", "Yes.", 3.0, 4.0, 0.4, False, True, True, True)


def call(*answers: Answer, stops: tuple[float | None, ...] = (), **about: Any) -> Judged:
    """A judged call."""
    return replace(
        CALL, answers=list(answers), disturbances=[Disturbance("interrupt", 5.0, each) for each in stops], **about
    )


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (200, 200, 0.9812, 1.0)]
)
def test_wilson(hits: int, count: int, low: float, high: float) -> None:
    """The interval of textbooks."""
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_what_is_not_known_is_not_counted() -> None:
    """A share is one of those that could be told."""
    assert share([True, None, False, None]).count == 2
    assert share([None]).value is None


def test_a_quantile_is_one_of_the_values() -> None:
    """What never happened stays without end, and does not make the others so."""
    assert quantile([0.1, 0.2, 0.3, inf], 0.5).value == pytest.approx(0.3)
    assert quantile([0.1, 0.2, inf], 0.9).value == inf


def test_scores() -> None:
    """Each counts what it is of."""
    wrong = replace(ANSWER, right=False, exact=False, exact_once=False, intent="address", gap_s=None)
    told_twice = replace(ANSWER, exact=False, gap_s=0.8, early=True, onset_s=250.0)
    calls = [call(ANSWER, wrong, told_twice, stops=(0.3, 2.0, None)), call(greeting=False)]
    scores = scored(calls, late_s=240)
    values = {name: score.value for name, score in scores.items()}
    assert values["greeting"] == 0.5
    assert values["intent"] == pytest.approx(2 / 3)
    assert (values["exact"], values["exact_once"]) == (0.5, 1)  # of the right ones
    assert values["answered"] == pytest.approx(2 / 3)
    assert values["early"] == pytest.approx(1 / 3)
    assert (values["gap_median_s"], values["gap_p95_s"]) == (0.8, 0.8)
    assert (values["stopped"], scores["stopped"].count) == (0.5, 2)
    assert (values["late_intent"], scores["late_intent"].count) == (1, 1)
    assert list(by_intent(calls)) == ["address", "hours"]


def results(*requirements: dict[str, Any], **variants: list[Judged]) -> Results:
    """Results of a suite with these requirements."""
    suite = {"name": "some", "steps": [{"say": "hello"}], "require": list(requirements)}
    return Results(Suite.model_validate(suite), {"line": "none"}, variants)


@pytest.mark.parametrize(
    ("requirement", "good"),
    [
        ({"score": "greeting", "least": 0.9}, True),
        ({"score": "gap_median_s", "most": 0.3}, False),
        ({"score": "stopped", "least": 0.5}, False),  # nothing was measured
        ({"score": "answered", "control": "muted", "most": 0.1}, False),
        ({"score": "answered", "control": "noise", "most": 0.1}, True),  # not held
    ],
)
def test_requirements(requirement: dict[str, Any], good: bool) -> None:
    """Met or not; one that nothing was measured for is not."""
    assert results(requirement, real=[call(ANSWER)], muted=[call(ANSWER)]).good is good


def test_a_call_that_failed_is_never_good() -> None:
    """Whatever the others say."""
    assert not results(real=[call(ANSWER), call(fault="486 Busy Here")]).good


def test_the_report_is_written(tmp_path: Path) -> None:
    """Figures as JSON that any reader takes, a page with tables, pictures that are XML, a line for each call."""
    wrong = replace(ANSWER, right=False, said="a | b")
    made = results(
        {"score": "stopped", "least": 0.9}, real=[call(ANSWER, wrong, stops=(0.3, inf))], muted=[call(ANSWER)]
    )
    page = write(made, tmp_path / "new" / "folder").read_text()
    folder = tmp_path / "new" / "folder"

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    told = json.loads((folder / "results.json").read_text(), parse_constant=refuse)
    assert told["scores"]["real"]["stopped"]["value"] == 0.5
    assert told["scores"]["real"]["stop_p90_s"]["value"] == "never"
    assert told["good"] is False
    assert [json.loads(line)["variant"] for line in (folder / "dialogues.jsonl").read_text().splitlines()] == [
        "real",
        "muted",
    ]
    for picture in ("gaps.svg", "stops.svg"):
        assert len(list(ElementTree.parse(folder / picture).iter("{http://www.w3.org/2000/svg}rect"))) >= 3
    assert "| `stopped` | 50.0% (9% to 91% of 2) |" in page
    assert "NOT MET: stopped 50.0%, at least 0.9" in page
    assert "a / b" in page
    assert "NOT MET" in summary(made)
