"""Reads denwa.yaml and the agents beside it: the only reader of ``os.environ``.

A configuration is read once, at the start of a process, before any event loop runs. Relative paths in it
start at the working directory of the process, wherever the file lies.
"""

import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from config.agent_schema import AgentConfig
from config.document import Document, Key, dotted, read_document
from config.errors import ConfigError, Finding
from config.inheritance import inherit, merged
from config.references import reference_faults, unreached_routes
from config.schema import Settings
from config.wording import finding, unshown

BASE: Final = "_base"
"""The stem of the file that every agent inherits from; it is no agent itself."""
_OVERRIDE: Final = ("routes", 0, "override")


@dataclass(frozen=True, slots=True)
class Examined:
    """What reading a configuration gave: settings where it has no error, and every finding."""

    settings: Settings | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings for which the configuration cannot be used."""
        return tuple(found for found in self.findings if found.severity == "error")


def default_path() -> Path:
    """The configuration that comes with Denwa."""
    return Path(__file__).parent / "defaults" / "denwa.yaml"


def load(path: Path, env: Mapping[str, str] | None = None) -> Settings:
    """Read a configuration, with ``env`` (default: the process's environment) for its references.

    Raises ConfigError with every error in every file at once.
    """
    examined = examine(path, env)
    if examined.settings is None:
        raise ConfigError(examined.errors)
    return examined.settings


def examine(path: Path, env: Mapping[str, str] | None = None) -> Examined:
    """Read a configuration and return all that is to be said about it; raises nothing."""
    environment = os.environ if env is None else env
    document = read_document(path, environment)
    if document.data is None and not document.findings:
        document.findings.append(Finding(document.file, 1, "", "is empty; begin with models: and routes:"))
    elif document.data is not None and not isinstance(document.data, dict):
        document.findings.append(Finding(document.file, 1, "", "must be a mapping, lines of 'key: value'"))
    if not isinstance(document.data, dict):
        return Examined(None, tuple(document.findings))
    files = _agent_files(path)
    base = next((read_document(file, environment) for file in files if file.stem == BASE), None)
    for agent in files:
        if agent.stem != BASE:
            _join(document, agent.stem, read_document(agent, environment))
    if base is not None:
        _inherit(document, base)
    return _validate(document)


def _inherit(document: Document, base: Document) -> None:
    """Put the base under every agent."""
    document.findings += base.findings
    if base.data is not None and not isinstance(base.data, dict):
        document.findings.append(Finding(base.file, 1, "", "must be a mapping, lines of 'key: value'"))
    agents = document.data.get("agents")
    for name in agents if isinstance(agents, dict) else ():
        inherit(document, base, ("agents", name))


def _agent_files(path: Path) -> list[Path]:
    """The files of the agents beside a configuration, by name."""
    folder = path.parent / "agents"
    return sorted(file for file in folder.glob("*.y*ml") if file.suffix in (".yaml", ".yml") and file.name[0] != ".")


def _join(document: Document, name: str, agent: Document) -> None:
    """Make the agent's values, places and findings part of the document's ``agents``."""
    key: Key = ("agents", name)
    for found in agent.findings:
        full = ".".join(part for part in (dotted(key), found.key) if part)
        document.findings.append(replace(found, key=full))
    if document.data.get("agents") is None:
        document.data["agents"] = {}
        document.places.setdefault(("agents",), document.places[()])
    agents = document.data["agents"]
    if not isinstance(agents, dict):
        return  # reported where it stands
    if name in agents:
        first = document.places[key]
        message = f"is defined twice; it stands in {first.file}:{first.line} already"
        document.findings.append(Finding(agent.file, 1, dotted(key), message))
        return
    agents[name] = agent.data
    document.places.update({(*key, *rest): place for rest, place in agent.places.items()})


def _override_faults(data: Mapping[str, Any]) -> list[ErrorDetails]:
    """What is wrong with the agents that routes make of other ones; what is wrong with those too is left out."""
    faults: list[ErrorDetails] = []
    agents = data["agents"] if isinstance(data.get("agents"), Mapping) else {}
    for index, route in enumerate(data["routes"] if isinstance(data.get("routes"), list) else []):
        override = route.get("override") if isinstance(route, Mapping) else None
        agent = agents.get(route.get("agent")) if override else None
        if not (isinstance(override, Mapping) and isinstance(agent, Mapping)):
            continue
        try:
            AgentConfig.model_validate(merged(agent, override))
        except ValidationError as error:
            key: Key = ("routes", index, "override")
            faults += [each | {"loc": (*key, *each["loc"])} for each in error.errors(include_url=False)]
    return faults


def _validate(document: Document) -> Examined:
    data, places, findings = document.data, document.places, list(document.findings)
    if not data.get("agents"):
        place = places.get(("agents",), places[()])
        findings.append(Finding(place.file, place.line, "agents", "there is none; write agents/NAME.yaml beside this"))
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        schema = Settings.model_json_schema()
        findings += [finding(each, schema, places) for each in error.errors(include_url=False)]
    agent_schema = AgentConfig.model_json_schema()
    for fault in _override_faults(data):
        if fault["loc"][: len(_OVERRIDE) + 1] in places:
            findings.append(finding(fault, agent_schema, places, root=len(_OVERRIDE)))
    for key, message in reference_faults(data):
        place, value = places[key], reduce(operator.getitem, key, data)
        findings.append(Finding(place.file, place.line, dotted(key), unshown(message, value, place)))
    for key, message in unreached_routes(data):
        findings.append(Finding(places[key].file, places[key].line, dotted(key), message, "warning"))
    findings = _once(findings, document.file)
    if any(found.severity == "error" for found in findings):
        settings = None
    return Examined(settings, tuple(findings))


def _once(findings: Iterable[Finding], main: str) -> list[Finding]:
    """The first finding on each key, in the order of files and lines: what follows from it is not said again."""
    first: dict[tuple[str, str], Finding] = {}
    for found in findings:
        inherited = Path(found.file).stem == BASE  # one fault there is one in every agent
        first.setdefault((found.file, f":{found.line}" if inherited else found.key), found)
    return sorted(first.values(), key=lambda found: (found.file != main, found.file, found.line))
