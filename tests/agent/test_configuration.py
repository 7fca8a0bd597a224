"""agent/generation.py and agent/configuration.py: a configuration in use, and how it becomes another one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.configuration import Configuration
from agent.generation import Generation
from config.errors import ConfigError
from config.load import load

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)  # a Tuesday
HEAD = "models:\n  echo: {kind: echo}\n  other: {kind: echo}\n"
AGENTS = """agents:
  a: {model: echo, greeting: hello}
  closed: {model: echo, greeting: nobody}
"""
ROUTES = """routes:
  - {called: special, agent: a, override: {greeting: special hello, recording: {enabled: true}}}
  - {agent: a}
"""


def write(path: Path, text: str) -> Path:
    """Write denwa.yaml."""
    path.write_text(text)
    return path


def generation(folder: Path, text: str) -> Generation:
    """The first generation of a configuration."""
    file = write(folder / "denwa.yaml", text)
    return Generation.build(1, load(file, {}), file)


def test_a_route_may_override_its_agent(tmp_path: Path) -> None:
    """Only on that route, and only what it names."""
    made = generation(tmp_path, HEAD + AGENTS + ROUTES)
    special, _ = made.answer(called="special", caller="", trunk=None, now=NOW)
    common, _ = made.answer(called="1", caller="", trunk=None, now=NOW)
    assert special is not None
    assert common is not None
    assert (special.name, special.config.greeting, special.config.recording.enabled) == ("a", "special hello", True)
    assert special.config.recording.format == common.config.recording.format
    assert (common.config.greeting, common.config.recording.enabled) == ("hello", False)


@pytest.mark.parametrize(
    ("closed", "name", "greeting"),
    [("closed_agent: closed", "closed", "nobody"), ("closed_message: come back", "a", "come back")],
)
def test_outside_of_its_hours_another_agent_or_a_message_answers(
    tmp_path: Path, closed: str, name: str, greeting: str
) -> None:
    """On a day that is not named; the message is all that its agent says."""
    hours = f"hours: {{open: {{mon: ['08:00-18:00']}}, {closed}}}"
    agents = AGENTS.replace("greeting: hello", f"greeting: hello, consent: {{text: recorded}}, {hours}")
    made = generation(tmp_path, HEAD + agents + "routes: [{agent: a}]\n")
    persona, _ = made.answer(called="1", caller="", trunk=None, now=NOW)
    assert persona is not None
    assert (persona.name, persona.config.greeting, persona.config.consent.text) == (name, greeting, None)
    assert persona.closed == (name == "a")
    opened, _ = made.answer(called="1", caller="", trunk=None, now=NOW.replace(day=23))
    assert opened is not None
    assert (opened.config.greeting, opened.closed) == ("hello", False)


def test_a_sound_that_cannot_be_used_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    """Each one, with the agent and the key."""
    agents = AGENTS.replace("greeting: nobody", "greeting_wav: none.wav, consent: {wav: no.wav}")
    with pytest.raises(ConfigError) as caught:
        generation(tmp_path, HEAD + agents + ROUTES)
    assert [found.key for found in caught.value.findings] == [
        "agents.closed.greeting_wav",
        "agents.closed.consent.wav",
    ]


async def test_a_reload_is_a_new_generation_or_nothing(tmp_path: Path) -> None:
    """What is right counts for new calls; what is broken, or cannot change while Denwa runs, leaves all as it was."""
    text = HEAD + AGENTS + ROUTES
    file = write(tmp_path / "denwa.yaml", text)
    seen: list[int] = []

    async def note(made: Generation) -> None:
        seen.append(made.number)

    configuration = Configuration(file, load(file, {}), note)
    first = configuration.current
    write(file, text.replace("greeting: hello", "greeting: hi"))
    assert (await configuration.reload()).accepted
    second = configuration.current
    old, _ = first.answer(called="1", caller="", trunk=None, now=NOW)
    new, _ = second.answer(called="1", caller="", trunk=None, now=NOW)
    assert old is not None
    assert new is not None
    assert (old.config.greeting, old.generation) == ("hello", 1)
    assert (new.config.greeting, new.generation) == ("hi", 2)

    for broken, key in (
        (text + "x: 1\n", "x: there is no such key"),
        (text + "sip: {drain_s: 1}\n", "sip.drain_s: cannot change while Denwa runs"),
        (text + "storage: {spool: elsewhere}\n", "storage.spool: cannot change"),
        (text.replace("echo: {kind: echo}", "echo: {kind: echo, slots: 9}"), "models.echo.slots: cannot change"),
        ("", "is empty"),
    ):
        write(file, broken)
        outcome = await configuration.reload()
        assert not outcome.accepted
        assert any(key in found for found in outcome.findings), outcome.findings
        assert configuration.current is second
    assert configuration.refused == 5

    write(file, text + "sip: {allow: [127.0.0.1]}\ntrunks: {t: {addresses: [192.0.2.1]}}\n")
    assert (await configuration.reload()).generation == 3
    assert seen == [2, 3]
