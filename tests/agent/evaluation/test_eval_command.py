"""agent/eval_command.py: the command, with a model of random weights."""

import json
from pathlib import Path

import pytest

from agent.cli import BAD_USAGE, DONE, FAILED, main
from agent.evaluation.recogniser import Recogniser, RecogniserError
from model_runtime.training.synthetic.script import World

pytestmark = pytest.mark.peer("espeak-ng")

SUITE = """\
name: quick
max_s: 6
listen_s: 0.5
dialogues: 2
steps:
- say: {text: hello there, reply: Good day., after_s: 0.7}
"""


def test_a_checkpoint_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two calls straight against the engine; the report, the calls and their sound are there."""
    suite = tmp_path / "quick.yaml"
    suite.write_text(SUITE)
    out = ("--out", str(tmp_path / "out"), "--slots", "2", "--keep-audio", "--control", "muted")
    assert main(["eval", str(suite), "--checkpoint", "random:tiny", *out]) == DONE
    told = capsys.readouterr()
    assert "quick: 2 real, 2 muted" in told.out
    assert "4 of 4 calls" in told.err
    results = json.loads((tmp_path / "out" / "quick" / "results.json").read_text())
    assert results["how"]["checkpoint"] == "random:tiny"
    assert sorted(path.name for path in (tmp_path / "out" / "quick" / "audio").iterdir()) == [
        "muted-0000.wav",
        "muted-0001.wav",
        "real-0000.wav",
        "real-0001.wav",
    ]


def test_a_requirement_that_is_not_met_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights do not greet."""
    suite = tmp_path / "quick.yaml"
    suite.write_text(SUITE + "require:\n- {score: greeting, least: 0.5}\n")
    command = ["eval", str(suite), "--checkpoint", "random:tiny", "--dialogues", "1", "--out", str(tmp_path / "out")]
    assert main(command) == FAILED
    assert "NOT MET: greeting 0.0%, at least 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        ([], "name a suite", BAD_USAGE),
        (["barge-in"], "say what to evaluate", BAD_USAGE),
        (["barge-in", "--checkpoint", "random:tiny", "--dialogues", "0"], "--dialogues must be at least 1", BAD_USAGE),
        (["nothing", "--checkpoint", "random:tiny"], "there is no such suite", BAD_USAGE),
        (["barge-in", "--checkpoint", "/nowhere"], "/nowhere", FAILED),
        (["barge-in", "--to", "nobody"], "not a SIP URI", FAILED),
    ],
)
def test_what_is_wrong_is_told(
    arguments: list[str], told: str, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In one line, with the exit code of its kind."""
    assert main(["eval", *arguments, "--out", str(tmp_path / "out")]) == code
    output = capsys.readouterr()
    assert told in output.err + output.out


def test_keys_need_a_real_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are not left out in silence."""
    suite = tmp_path / "keys.yaml"
    suite.write_text("name: keys\ndialogues: 1\nsteps:\n- dtmf: '1'\n")
    assert main(["eval", str(suite), "--checkpoint", "random:tiny", "--out", str(tmp_path / "out")]) == FAILED
    assert "use --to" in capsys.readouterr().out


def test_the_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """By name."""
    assert main(["eval", "--list"]) == DONE
    assert "barge-in" in capsys.readouterr().out.split()


def test_a_missing_recogniser_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is optional."""
    monkeypatch.setitem(__import__("sys").modules, "pocketsphinx", None)
    with pytest.raises(RecogniserError, match="pip install pocketsphinx"):
        Recogniser(World.load())
