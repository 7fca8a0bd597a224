"""Texts that an agent's model has no words for are faults of the configuration."""

from pathlib import Path

import pytest

from agent.check import check
from model_runtime import embedded
from tests.peers.audio import chirps, write_wav

HEAD = (
    "models: {desk: {kind: moshi, checkpoint: 'embedded:front-desk'}, tiny: {kind: moshi, checkpoint: 'random:tiny'}}\n"
)


def checked(folder: Path, text: str) -> tuple[list[str], int]:
    """The lines of ``denwa check`` without the file's name, and its exit code."""
    path = folder / "denwa.yaml"
    path.write_text(text)
    answer = check(path, {})
    return [line.replace(f"{path}:", "") for line in answer.text.splitlines()], answer.exit_code


def test_the_checkpoint_is_known(tmp_path: Path) -> None:
    """``embedded:front-desk`` is a checkpoint like any other, and its own words may be given to it."""
    agent = "{model: desk, greeting: 'Good morning, how can I help you?', caller_silence_s: 9}"
    lines, code = checked(tmp_path, HEAD + f"agents: {{a: {agent}}}\nroutes: [{{agent: a}}]\n")
    assert (lines, code) == ([" ok: 1 agent, 2 models, 1 route, 0 trunks"], 0)


def test_every_text_is_looked_at(tmp_path: Path) -> None:
    """Each is told with its key and the words that are missing, also on a route; variables are let through."""
    agent = """
agents:
  a:
    model: desk
    consent: {text: This call is recorded.}
    greeting: Our office is closed.
    caller_silence_s: 5
    still_there: [Are you still there?, Hello?]
    silence_goodbye: Farewell.
    hours: {open: {}, closed_message: Closed.}
    actions:
      - name: x
        do:
          - say: "Good morning, {name}."
          - say: "Good evening, {name}."
          - transfer: {to: "sip:1@x", failed_say: Nobody.}
          - webhook: {url: "https://x.example", failed_say: Sorry.}
"""
    routes = "routes: [{called: 1, agent: b, override: {model: desk}}, {agent: a}]\n"
    lines, code = checked(tmp_path, HEAD + agent + "  b: {model: tiny, greeting: Welcome.}\n" + routes)
    assert code == 2
    told = [line.split(" cannot say ")[0].removeprefix("1: ").removesuffix(": embedded:front-desk") for line in lines]
    assert told[:-1] == [
        "agents.a.consent.text",
        "agents.a.greeting",
        "agents.a.still_there[1]",
        "agents.a.silence_goodbye",
        "agents.a.hours.closed_message",
        "agents.a.actions[0].do[1].say",
        "agents.a.actions[0].do[2].transfer.failed_say",
        "agents.a.actions[0].do[3].webhook.failed_say",
        "agents.b.greeting",
    ]
    assert "cannot say 'office', 'closed.'; use its own words (docs/checkpoints.md), or another model" in lines[1]


def test_the_words_of_a_sound_are_free(tmp_path: Path) -> None:
    """A greeting that is played is said in its own sound; questions that are never asked do not matter."""
    wav = write_wav(tmp_path / "hello.wav", chirps(-20, 1.0, 24_000, seed=1), 24_000)
    agent = f"{{model: desk, greeting: Welcome to us, greeting_wav: {wav}, still_there: [Hello?]}}"
    assert checked(tmp_path, HEAD + f"agents: {{a: {agent}}}\nroutes: [{{agent: a}}]\n")[1] == 0


def test_a_checkpoint_that_did_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, and files that an installation lacks, are told before anything is started."""
    rest = "agents: {a: {model: desk, greeting: Welcome}}\nroutes: [{agent: a}]\n"
    lines, code = checked(tmp_path, HEAD.replace("front-desk", "desk") + rest)
    assert code == 2
    assert lines[0].startswith("1: models.desk.checkpoint: embedded:desk: no such checkpoint comes with Denwa")
    monkeypatch.setitem(embedded._FOLDERS, embedded.FRONT_DESK, tmp_path / "none")
    lines, code = checked(tmp_path, HEAD + rest)
    assert code == 2
    assert "this installation lacks its files" in lines[0]
    elsewhere = HEAD.replace("'embedded:front-desk'", "'embedded:front-desk', workers: ['ws://192.0.2.1:1']")
    assert checked(tmp_path, elsewhere + rest)[1] == 0
