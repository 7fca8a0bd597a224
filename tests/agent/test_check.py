"""``denwa check``: findings, explanations and schemas as text and exit code."""

import json
from pathlib import Path

import pytest
import yaml

from agent.check import check, explain, schema
from config.errors import ConfigError
from config.load import default_path


def test_a_right_file_is_counted() -> None:
    """A configuration without errors gives one line on what it holds, and exit code 0."""
    assert check(default_path(), {}) == (f"{default_path()}: ok: 5 agents, 3 models, 5 routes, 0 trunks", 0)


def test_a_wrong_file_gives_every_error(tmp_path: Path) -> None:
    """Every error has its line, then comes their number; exit code 2."""
    path = tmp_path / "denwa.yaml"
    path.write_text("x: 1\ny: 2\n")
    text, code = check(path, {})
    assert code == 2
    assert f"{path}:1: x: there is no such key" in text
    assert text.splitlines()[-1] == f"{path}: 5 errors"


def test_warnings_alone_are_right(tmp_path: Path) -> None:
    """A warning is shown and leaves the exit code 0."""
    path = tmp_path / "denwa.yaml"
    path.write_text("models: {e: {kind: echo}}\nagents: {a: {model: e}}\nroutes: [{agent: a}, {agent: a}]\n")
    text, code = check(path, {})
    assert code == 0
    assert text.splitlines()[0].startswith(f"{path}:3: warning: routes[1]: is never reached")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:echo@host", "agent 'echo' answers, with model 'echo'"),
        ("sip:100@host;transport=tcp", "agent 'front-desk' answers, with model 'front-desk'"),
        ("tel:+4930123", "called '+4930123', caller '200', no trunk"),
        ("sip:ec%68o@host", "agent 'echo' answers"),
    ],
)
def test_explain_names_the_agent(uri: str, expected: str) -> None:
    """The answer names the agent and what became of each route tried."""
    text, code = explain(default_path(), uri, caller="sip:200@x", source="127.0.0.1", env={})
    assert code == 0
    assert expected in text
    assert "routes[0] -> echo: " in text


def test_explain_tells_of_refused_sources_and_unmatched_calls(tmp_path: Path) -> None:
    """A source that is not allowed, and a call that no route takes, are explained as the edge answers them."""
    assert "its call gets no answer" in explain(default_path(), "sip:echo@host", source="192.0.2.1", env={}).text
    path = tmp_path / "denwa.yaml"
    path.write_text("models: {e: {kind: echo}}\nagents: {a: {model: e}}\nroutes: [{agent: a, called: 1}]\n")
    text = explain(path, "sip:2@host", env={}).text
    assert text.splitlines()[1:] == [
        "routes[0] -> a: called is '2', not '1'",
        "no route takes the call: it is refused (404)",
    ]


@pytest.mark.parametrize(
    ("uri", "caller", "source"),
    [
        ("100", None, None),
        ("sip:1 2@h", None, None),
        ("http:x", None, None),
        ("sip:1@h", "x", None),
        ("sip:1@h", None, "x"),
    ],
)
def test_explain_refuses_what_is_no_address(uri: str, caller: str | None, source: str | None) -> None:
    """Malformed addresses are bad usage, exit code 2."""
    assert explain(default_path(), uri, caller, source, env={}).exit_code == 2


def test_explain_needs_a_right_file(tmp_path: Path) -> None:
    """Without a usable configuration there is nothing to explain: ConfigError."""
    with pytest.raises(ConfigError):
        explain(tmp_path / "none.yaml", "sip:1@h", env={})


def test_the_schema_takes_the_default_files() -> None:
    """Every key of the files that come with Denwa is in the schema that editors get."""
    made = json.loads(schema("denwa").text)
    written = yaml.safe_load(default_path().read_text())
    assert set(written) <= set(made["properties"])
    assert set(written["sip"]) <= set(made["$defs"]["SipSettings"]["properties"])
    assert "agents" not in made["required"]
    agent = json.loads(schema("agent").text)
    for file in (default_path().parent / "agents").glob("*.yaml"):
        assert set(yaml.safe_load(file.read_text())) <= set(agent["properties"])


def test_the_schema_describes_every_key() -> None:
    """No key is without a description, and numbers may be references to the environment."""
    made = json.loads(schema("denwa").text)
    sections = [made, *made["$defs"].values()]
    bare = [key for section in sections for key, node in section["properties"].items() if not node.get("description")]
    assert bare == []
    assert {"type": "string", "pattern": r"\$\{"} in made["$defs"]["SipSettings"]["properties"]["max_calls"]["anyOf"]
