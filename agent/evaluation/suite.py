"""Reads a suite's file, or one that comes with Denwa; every fault is told by file, line and key."""

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from agent.evaluation.schema import Suite
from config.document import Document, read_document
from config.errors import ConfigError, Finding
from config.wording import finding
from model_runtime.errors import ModelError
from model_runtime.training.synthetic.script import WORLDS, World

SUITES: Final = Path(__file__).parent / "suites"
_SUFFIX: Final = ".yaml"


def shipped() -> list[str]:
    """The names of the suites that come with Denwa."""
    return sorted(path.stem for path in SUITES.glob(f"*{_SUFFIX}"))


def load_suite(name: str) -> tuple[Suite, World]:
    """The suite of a file, or of a name, and its world; raises ``ConfigError`` with all faults."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in shipped():
            raise _fault(name, f"there is no such suite; write a file's path, or one of: {', '.join(shipped())}")
        path = SUITES / f"{name}{_SUFFIX}"
    document = read_document(path, {})
    if document.findings:
        raise ConfigError(document.findings)
    if not isinstance(document.data, dict):
        raise _fault(document.file, "must be a mapping; begin with name: and steps:")
    try:
        suite = Suite.model_validate(document.data)
    except ValidationError as error:
        schema = Suite.model_json_schema()
        raise ConfigError([finding(each, schema, document.places) for each in _sorted(error, document)]) from None
    return suite, _world(suite, document)


def _sorted(error: ValidationError, document: Document) -> list[Any]:
    """Pydantic's findings in the order of the file, each place's first one."""
    first: dict[tuple[Any, ...], Any] = {}
    for each in error.errors(include_url=False):
        first.setdefault(tuple(each["loc"]), each)
    return sorted(first.values(), key=lambda each: _line(tuple(each["loc"]), document))


def _line(key: tuple[Any, ...], document: Document) -> int:
    while key not in document.places:
        key = key[:-1]
    return document.places[key].line


def _world(suite: Suite, document: Document) -> World:
    given = Path(suite.world)
    path = given if given.suffix in (".yaml", ".yml") else WORLDS / f"{suite.world}.yaml"
    line = document.places.get(("world",), document.places[()]).line
    try:
        world = World.load(path)
    except ModelError as error:
        raise ConfigError([Finding(document.file, line, "world", str(error))]) from None
    findings = []
    for number, step in enumerate(suite.steps):
        said = step.say or step.interrupt
        if said is not None and said.intent not in (None, "any") and said.intent not in world.intents:
            verb = "say" if step.say else "interrupt"
            where = document.places.get(("steps", number, verb, "intent"), document.places["steps", number]).line
            known = ", ".join(sorted(world.intents))
            message = f"the world has no intent {said.intent!r}; there are: {known}"
            findings.append(Finding(document.file, where, f"steps[{number}].{verb}.intent", message))
    if findings:
        raise ConfigError(findings)
    return world


def _fault(file: str, message: str) -> ConfigError:
    return ConfigError([Finding(file, 1, "", message)])
