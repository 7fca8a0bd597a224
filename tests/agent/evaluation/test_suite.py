"""agent/evaluation/suite.py and schema.py: what a suite's file may say, and how its faults are told."""

from pathlib import Path

import pytest

from agent.evaluation.suite import load_suite, shipped
from config.errors import ConfigError


def faults(text: str, folder: Path) -> list[str]:
    """What is wrong with a suite, without the folder."""
    path = folder / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_suite(str(path))
    return [str(each).removeprefix(f"{folder}/") for each in caught.value.findings]


@pytest.mark.parametrize("name", shipped())
def test_what_comes_with_denwa_can_be_read(name: str) -> None:
    """And each is named as its file is, has a requirement, and says what it is about."""
    suite, world = load_suite(name)
    assert suite.name == name
    assert suite.require
    assert suite.about
    assert world.name == "front_desk"


def test_the_suites_of_the_acceptance_are_there() -> None:
    """By the names that the documentation uses."""
    assert {"questions-seen", "questions-unseen", "barge-in", "back-channels", "noise", "echo", "long-call"} <= set(
        shipped()
    )
    assert load_suite("questions-unseen")[0].wording == "unseen"
    assert all(load_suite(name)[0].dialogues >= 200 for name in ("questions-seen", "questions-unseen", "barge-in"))


def test_short_forms(tmp_path: Path) -> None:
    """A step's body may be one value, a time one number or two."""
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: short\nsteps:\n- wait: 3\n- say: what are your hours\n- silence: 2.5\n- noise: white\n- dtmf: '12#'\n"
        "- backchannel: mm-hmm\n- turns: 2\n- interrupt: {text: hold on, after_s: [0.5, 1]}\n"
    )
    steps = load_suite(str(path))[0].steps
    assert steps[0].wait is not None
    assert steps[0].wait.most_s == 3
    assert steps[1].say is not None
    assert (steps[1].say.text, steps[1].say.intent) == ("what are your hours", None)
    assert steps[2].silence is not None
    assert steps[2].silence.seconds == 2.5
    assert steps[4].dtmf is not None
    assert steps[4].dtmf.keys == "12#"
    assert steps[6].turns is not None
    assert steps[6].turns.count == 2
    assert steps[7].interrupt is not None
    assert (steps[7].interrupt.after_s.least, steps[7].interrupt.after_s.most) == (0.5, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nsteps:\n- say: hello\n  wait: 3\n", "suite.yaml:3: steps[0]: must be exactly one of say, interrupt"),
        ("name: a\nsteps:\n- expect: {quiet: true}\n", "suite.yaml:3: steps[0]: must be exactly one of say, interrupt"),
        (
            "name: a\nsteps:\n- say: {intnt: any}\n",
            "suite.yaml:3: steps[0].say.intnt: there is no such key; did you mean",
        ),
        (
            "name: a\nsteps:\n- say: {intent: weather}\n",
            "suite.yaml:3: steps[0].say.intent: the world has no intent 'weather'",
        ),
        ("name: a\nsteps:\n- say: {text: hi, intent: any}\n", "has a text and an intent"),
        ("name: a\ndialogues: 0\nsteps:\n- say: hi\n", "suite.yaml:2: dialogues: must be a whole number of at least 1"),
        ("name: a\nsteps: []\n", "suite.yaml:2: steps: is empty"),
        ("name: a\nsteps:\n- dtmf: 'x'\n", "steps[0].dtmf.keys: 1 to 31 of 0-9"),
        ("name: a\nsteps:\n- say: hi\nrequire:\n- {score: intents, least: 1}\n", "require[0].score: must be one of"),
        ("name: a\nsteps:\n- say: hi\nrequire:\n- {score: intent}\n", "require[0]: needs least or most"),
        ("name: a\nsteps:\n- turns: {count: 1, until_s: 3}\n", "needs either count or until_s"),
        ("name: a\nworld: nowhere.yaml\nsteps:\n- say: hi\n", "suite.yaml:2: world: nowhere.yaml"),
        ("- say\n", "must be a mapping"),
        ("name: [\n", "is not YAML"),
    ],
)
def test_a_fault_is_told_by_where_what_and_how(text: str, told: str, tmp_path: Path) -> None:
    """File, line and key; what is wrong; what would be right."""
    found = faults(text, tmp_path)
    assert any(told in each for each in found), found


def test_a_name_that_is_none_is_told_with_those_that_are() -> None:
    """So is a file that is not there."""
    with pytest.raises(ConfigError, match=r"there is no such suite.*barge-in"):
        load_suite("barge")
    with pytest.raises(ConfigError, match="there is no such file"):
        load_suite("barge.yaml")
