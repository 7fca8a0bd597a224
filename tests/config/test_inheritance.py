"""agents/_base.yaml lies under every agent, a route's override on top of one; faults are named where they stand."""

from pathlib import Path

import pytest

from config.load import examine, load

MODELS = "models:\n  echo: {kind: echo}\n"
MAIN = MODELS + "routes:\n  - {agent: a}\n"


def write(folder: Path, **files: str) -> Path:
    """Write denwa.yaml and agents/NAME.yaml; return denwa.yaml."""
    (folder / "agents").mkdir()
    for name, text in files.items():
        (folder / ("denwa.yaml" if name == "denwa" else f"agents/{name}.yaml")).write_text(text)
    return folder / "denwa.yaml"


def findings(path: Path) -> list[str]:
    """Every finding, file names without their folder."""
    return [str(found).replace(f"{path.parent}/", "") for found in examine(path, {}).findings]


def test_sections_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    """An agent keeps what it does not write, down to single keys of a section; its lists are its own."""
    path = write(
        tmp_path,
        denwa=MAIN,
        _base="model: echo\nstill_there: [one, two]\nrecording: {enabled: true, format: wav}\n",
        a="still_there: [three]\nrecording: {format: flac}\n",
        b="",
    )
    agents = load(path, {}).agents
    assert set(agents) == {"a", "b"}
    assert (agents["a"].still_there, agents["a"].recording.format, agents["a"].recording.enabled) == (
        ["three"],
        "flac",
        True,
    )
    assert (agents["b"].still_there, agents["b"].recording.format) == (["one", "two"], "wav")


def test_a_fault_in_the_base_is_told_once_where_it_stands(tmp_path: Path) -> None:
    """However many agents inherit it."""
    path = write(tmp_path, denwa=MAIN, _base="model: echo\nmax_duration_s: -1\n", a="", b="")
    assert findings(path) == ["agents/_base.yaml:2: agents.a.max_duration_s: must be a number above 0; got '-1'"]


def test_a_fault_of_an_agent_is_told_in_its_own_file(tmp_path: Path) -> None:
    """Also where the base writes the same key rightly."""
    path = write(tmp_path, denwa=MAIN, _base="model: echo\n", a="\nmodel: eco\n")
    assert findings(path) == ["agents/a.yaml:2: agents.a.model: there is no model 'eco'; did you mean 'echo'?"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("{greting: hello}", "routes[0].override.greting: there is no such key; did you mean 'greeting'?"),
        ("{max_duration_s: 0}", "routes[0].override.max_duration_s: must be a number above 0; got '0'"),
        ("{recording: {format: mp3}}", "routes[0].override.recording.format: must be one of flac, wav; got 'mp3'"),
        ("{model: eco}", "routes[0].override.model: there is no model 'eco'; did you mean 'echo'?"),
        ("{hours: {closed_agent: b}}", "routes[0].override.hours.closed_agent: there is no agent 'b'; there are: a"),
        ("{fallback: {full: transfer}}", "routes[0].override.fallback: transfer needs transfer_to"),
        ("x", "routes[0].override: must be a mapping of keys to values; got 'x'"),
    ],
)
def test_a_fault_of_an_override_is_told_where_it_stands(tmp_path: Path, override: str, expected: str) -> None:
    """Any key of an agent may be overridden, and is checked like the agent's own."""
    path = write(tmp_path, denwa=f"{MODELS}routes:\n  - {{agent: a, override: {override}}}\n", a="model: echo\n")
    found = findings(path)
    assert len(found) == 1
    assert found[0].startswith(f"denwa.yaml:4: {expected}")


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("hours: {open: {mon: ['8-12']}}", "must be a period within one day, e.g. 08:30-12:00"),
        ("hours: {timezone: Mars/Olympus}", "is no time zone; write one like Europe/Berlin or UTC; got 'Mars/Olympus'"),
        ("hours: {open: {mon: ['08:00-12:00']}}", "needs closed_agent or closed_message"),
        ("hours: {holidays: [2026-12-25]}", "has holidays but no open"),
        ("actions: [{name: x, do: []}]", "actions[0].do: is empty; it needs at least one entry"),
        ("actions: [{name: x, do: [{}]}]", "a step is one of say, set, send_dtmf, transfer, webhook"),
        ("actions: [{name: x, do: [{say: a, set: {b: c}}]}]", "has say and set; a step is one of"),
        ("actions: [{name: x, when: {dtmf: '['}, do: [{say: a}]}]", "is no regular expression"),
        ("actions: [{name: x, do: [{say: a}]}, {name: x, do: [{say: b}]}]", "two actions are named 'x'"),
        ("actions: [{name: x, do: [{switch_agent: nobody}]}]", "do[0].switch_agent: there is no agent 'nobody'"),
        ("actions: [{name: x, do: [{webhook: {url: ftp://a}}]}]", "must be http://HOST/PATH or https://HOST/PATH"),
    ],
)
def test_what_an_agent_cannot_be_told_is_named(tmp_path: Path, agent: str, expected: str) -> None:
    """Hours, actions and names of other agents are checked when the file is read."""
    found = findings(write(tmp_path, denwa=MAIN, a=f"model: echo\n{agent}\n"))
    assert len(found) == 1
    assert expected in found[0]


def test_an_api_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    """The API can hang up calls: heard by other machines, it asks for a token."""
    text = MAIN + "observability: {http_listen: 0.0.0.0:8080}\n"
    path = write(tmp_path, denwa=text, a="model: echo\n")
    assert "the API needs a token" in findings(path)[0]
    path.write_text(text + "api: {token: 0123456789abcdef}\n")
    assert findings(path) == []
