"""``denwa check``: what is wrong with a configuration, which agent would answer a call, and the schemas for editors.

Functions from arguments to the text to print and the exit code; they print nothing and open no socket.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from agent.generation import Generation
from agent.measures.tracing import otel_missing
from agent.routing import is_allowed, route, trunk_of
from config.editor_schema import editor_schema
from config.errors import ConfigError, Finding
from config.load import examine, load
from config.schema import Settings
from telephony.errors import SipParseError
from telephony.sip.uri import NameAddr, SipUri


class Answer(NamedTuple):
    """What a command has to say, and its exit code: 0 done, 2 bad usage or configuration."""

    text: str
    exit_code: int


def check(path: Path, env: Mapping[str, str] | None = None) -> Answer:
    """Every finding in a configuration, one per line, or what it holds where it is right."""
    examined = examine(path, env)
    lines = [str(found) for found in examined.findings]
    errors = list(examined.errors)
    if examined.settings is not None:
        errors += _unusable(examined.settings, path)
        lines += [str(found) for found in errors]
    if examined.settings is None or errors:
        return Answer("\n".join([*lines, f"{path}: {_count(len(errors), 'error')}"]), 2)
    return Answer("\n".join([*lines, f"{path}: ok: {_contents(examined.settings)}"]), 0)


def schema(kind: Literal["denwa", "agent"] = "denwa") -> Answer:
    """The JSON Schema of denwa.yaml or of an agent's file."""
    return Answer(json.dumps(editor_schema(kind), indent=2, ensure_ascii=False), 0)


def explain(
    path: Path, uri: str, caller: str | None = None, source: str | None = None, env: Mapping[str, str] | None = None
) -> Answer:
    """Which agent would answer a call to ``uri`` from ``caller`` (a SIP URI) at ``source`` (an IP address), and why.

    Raises ConfigError where the configuration cannot be used.
    """
    settings = load(path, env)
    try:
        called_user = _user(uri)
        caller_user = _user(caller) if caller else ""
        trunk = trunk_of(settings, source) if source else None
    except ValueError as error:
        return Answer(str(error), 2)
    lines = [f"called {called_user!r}, caller {caller_user!r}, {f'trunk {trunk!r}' if trunk else 'no trunk'}"]
    if source and not is_allowed(settings, source):
        lines.append(f"{source} is neither in sip.allow nor a trunk's: its call gets no answer")
        return Answer("\n".join(lines), 0)
    decision = route(settings, called=called_user, caller=caller_user, trunk=trunk)
    for index, reason in enumerate(decision.reasons):
        lines.append(f"routes[{index}] -> {settings.routes[index].agent}: {reason}")
    if decision.agent is None:
        lines.append("no route takes the call: it is refused (404)")
    else:
        lines.append(f"agent {decision.agent!r} answers, with model {settings.agents[decision.agent].model!r}")
    return Answer("\n".join(lines), 0)


def _unusable(settings: Settings, path: Path) -> list[Finding]:
    """What is wrong beside the files of the configuration: sounds that cannot be played, packages that are missing."""
    findings: list[Finding] = []
    try:
        Generation.build(1, settings, path)
    except ConfigError as error:
        findings += error.findings
    if settings.observability.otlp_endpoint is not None and (why := otel_missing()):
        findings.append(Finding(str(path), 1, "observability.otlp_endpoint", why))
    return findings


def _user(text: str) -> str:
    """The user part of a SIP URI, as the edge tells it to the routes. Raises ValueError."""
    try:
        address = NameAddr.parse(text)
        if not address.uri.lower().startswith("tel:"):
            SipUri.parse(address.uri)
        return address.user()
    except SipParseError as error:
        raise ValueError(f"{text!r} is not a SIP URI ({error}); write sip:100@example.com") from None


def _contents(settings: Settings) -> str:
    counts = [(len(settings.agents), "agent"), (len(settings.models), "model"), (len(settings.routes), "route")]
    return ", ".join(_count(number, noun) for number, noun in [*counts, (len(settings.trunks), "trunk")])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
