"""One YAML file as plain values, and the line on which each of them stands.

Every scalar stays text, as written: the schema decides what is a number (so ``called: 0301`` keeps its zero
and ``caller: no`` is two letters); a plain empty scalar, ``~`` or ``null`` is None. Anchors, aliases and merge
keys work within bounds; tags and keys written twice are refused. Pure but for the files it reads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from config.environment import ReferenceFault, substitute
from config.errors import Finding
from config.yaml_text import MAX_DEPTH, Unreadable, compose, read_text

Key = tuple[str | int, ...]
"""Where a value stands: ``("routes", 0, "agent")``."""

MAX_VALUES: Final = 50_000
"""Values after aliases are expanded: a small file may not become a big one."""

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = _TAG + "merge"
_IMPLICIT: Final = frozenset(
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map")
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, and a scalar as written: references unresolved, so fit to be shown."""

    file: str
    line: int
    written: str | None = None


@dataclass(slots=True)
class Document:
    """A file's values, the place of each, and what was wrong with the file."""

    file: str
    data: Any = None
    places: dict[Key, Place] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def dotted(key: Key) -> str:
    """A key as an operator says it: ``routes[0].agent``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path, env: Mapping[str, str]) -> Document:
    """Read one YAML file; whatever is wrong with it is in ``findings``, nothing is raised."""
    document = Document(str(path))
    document.places[()] = Place(document.file, 1)
    try:
        node = compose(read_text(path))
        if node is not None:
            document.data = _Builder(document, env).build(node, (), 0)
    except Unreadable as fault:
        document.findings.append(Finding(document.file, fault.line, "", str(fault)))
    return document


class _Builder:
    """Plain values from nodes, with every value's place noted."""

    def __init__(self, document: Document, env: Mapping[str, str]) -> None:
        self._document = document
        self._env = env
        self._count = 0

    def build(self, node: yaml.Node, key: Key, depth: int) -> Any:
        """The node's value; a fault in it is noted and leaves None. Raises Unreadable where it grows too big."""
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            raise Unreadable(line, "its aliases make this file too big; write the values out")
        self._document.places.setdefault(key, Place(self._document.file, line))
        if node.tag not in _IMPLICIT:
            self._note(line, key, f"the tag {node.tag!r} has no meaning here; write the value alone")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*key, i), depth + 1) for i, child in enumerate(node.value)]
        return self._scalar(node, key, line)

    def _scalar(self, node: yaml.Node, key: Key, line: int) -> str | None:
        text = str(node.value)
        place = self._document.places[key]
        self._document.places[key] = Place(place.file, place.line, text)
        try:
            value = substitute(text, self._env)
        except ReferenceFault as fault:
            self._note(line, key, str(fault))
            return None
        plain = not getattr(node, "style", None)
        return None if plain and value in _NULL else value

    def _mapping(self, node: yaml.MappingNode, key: Key, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name, line, child in self._pairs(node, key):
            if name in lines:
                self._note(line, (*key, name), f"is written twice; it stands on line {lines[name]} already")
                continue
            lines[name] = line
            self._document.places[*key, name] = Place(self._document.file, line)
            values[name] = self.build(child, (*key, name), depth + 1)
        for source in _merged(node):
            if not isinstance(source, yaml.MappingNode):
                self._note(source.start_mark.line + 1, key, "<< merges mappings, e.g. <<: *name")
                continue
            if any(_merged(source)):
                self._note(source.start_mark.line + 1, key, "merged by <<, it holds another <<; write that one out")
            for name, line, child in self._pairs(source, key):
                if name not in values:
                    self._document.places[*key, name] = Place(self._document.file, line)
                    values[name] = self.build(child, (*key, name), depth + 1)
        return values

    def _pairs(self, node: yaml.MappingNode, key: Key) -> Iterator[tuple[str, int, yaml.Node]]:
        """The mapping's own entries; a merge key is none."""
        for name, child in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                self._note(line, key, "a key must be one word or number")
            elif name.tag != _MERGE:
                yield str(name.value), line, child

    def _note(self, line: int, key: Key, message: str) -> None:
        self._document.findings.append(Finding(self._document.file, line, dotted(key), message))


def _merged(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    """The mappings that ``<<`` names (YAML 1.1 merge key), nearest first."""
    for name, child in node.value:
        if name.tag == _MERGE:
            yield from child.value if isinstance(child, yaml.SequenceNode) else [child]
