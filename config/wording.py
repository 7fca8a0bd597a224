"""What pydantic found, in an operator's words: what is wrong, and what would be right.

Expectations are read from the JSON Schema of the settings, so that they never differ from it. Pure.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from pydantic_core import ErrorDetails

from config.document import Key, Place, dotted
from config.environment import refers
from config.errors import Finding

_PLAIN: Final = {
    "string": "text",
    "array": "a list",
    "object": "a mapping of keys to values",
    "boolean": "true or false",
}
_BOUNDS: Final = {
    "minimum": "of at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def nearest(word: str, known: object) -> str:
    """``; did you mean 'x'?``, or which words there are; empty where there are none."""
    names = sorted(str(name) for name in known) if isinstance(known, (Mapping, set, frozenset, list, tuple)) else []
    if close := get_close_matches(word, names, n=1):
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there is none"


def finding(error: ErrorDetails, schema: Mapping[str, Any], places: Mapping[Key, Place], *, root: int = 0) -> Finding:
    """One of pydantic's errors as a finding at its line; ``schema`` describes what lies ``root`` keys down."""
    key = _known(error["loc"], places)
    place = places[key]
    rest = tuple(part for part in error["loc"][len(key) :] if part != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden":
        keys = schema_at(schema, key[root:-1]).get("properties", {})
        message = f"there is no such key; {nearest(str(key[-1]), keys)}"
    elif kind == "missing":
        expected = _expected(schema_at(schema, error["loc"][root:]), schema)
        key = error["loc"]
        message = f"is missing; it must be {expected}"
    elif kind == "value_error":
        message = unshown(str(error["ctx"]["error"]), error["input"], place)
        key = error["loc"] if error["loc"] and isinstance(error["loc"][-1], str) else key
    elif "[key]" in error["loc"]:
        message = "is no name; a name is letters, digits, '.', '-' and '_', up to 64, and begins with a letter or digit"
    elif kind == "too_short":
        message = "is empty; it needs at least one entry"
    else:
        message = (
            f"must be {_expected(schema_at(schema, (*key[root:], *rest)), schema)}; got {_got(error['input'], place)}"
        )
        if kind == "literal_error" and isinstance(error["input"], str) and not refers(place.written or ""):
            close = get_close_matches(error["input"].lower(), _choices(schema_at(schema, key[root:])), n=1, cutoff=0.5)
            message += f"; did you mean {close[0]!r}?" if close else ""
    return Finding(place.file, place.line, dotted(key), message)


def schema_at(schema: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """The part of a JSON Schema that describes the value at ``key``; empty where it describes none."""
    node = _resolved(schema, schema)
    for part in key:
        if isinstance(part, int):
            child = node.get("items", {})
        else:
            child = node.get("properties", {}).get(part) or _any_entry(node)
        node = _resolved(child if isinstance(child, Mapping) else {}, schema)
    return node


def _resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The node with its reference followed, and "or nothing" left out."""
    found = dict(node)
    if reference := found.pop("$ref", None):
        found = dict(schema["$defs"][reference.rsplit("/", 1)[1]]) | found
    options = [option for option in found.get("anyOf", []) if option.get("type") != "null"]
    if len(options) == 1:
        found = _resolved(options[0], schema) | {name: value for name, value in found.items() if name != "anyOf"}
    return found


def _any_entry(node: Mapping[str, Any]) -> object:
    """What describes an entry of a mapping whose keys the operator chooses."""
    return next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties", {}))


def _choices(node: Mapping[str, Any]) -> list[str]:
    return [str(choice) for choice in node.get("enum", [node["const"]] if "const" in node else [])]


def _expected(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a value must be, in words, with an example where the schema has a default."""
    if choices := _choices(node):
        return f"one of {', '.join(choices)}"
    kind = node.get("type")
    default = node.get("default")
    if kind in ("integer", "number"):
        bounds = [words.format(node[name]) for name, words in _BOUNDS.items() if name in node]
        text = "a whole number" if kind == "integer" else "a number"
        text += f" {' and '.join(bounds)}" if bounds else ""
        return f"{text}, e.g. {default}" if default is not None else text
    if "pattern" in node and default is not None:
        return f"text like {default!r}"
    if kind == "array":
        items = _expected(_resolved(node.get("items", {}), schema), schema)
        return f"a list, each entry {items}"
    if kind == "object" and (keys := node.get("required")):
        return f"a mapping with the keys {', '.join(keys)}"
    return _PLAIN.get(str(kind), "written otherwise")


def _got(value: object, place: Place) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if place.written is not None and refers(place.written):
        return f"the value of {place.written}"
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def unshown(message: str, value: object, place: Place) -> str:
    """The message without the value where that came out of the environment or a file: it may be a secret."""
    if not isinstance(value, str) or place.written is None or not refers(place.written):
        return message
    before, got, _ = message.partition("; got ")
    return f"{before}{got}the value of {place.written}" if got else message.replace(repr(value), place.written)


def _known(loc: Key, places: Mapping[Key, Place]) -> Key:
    """The longest beginning of a place in the values that has a place in a file."""
    while loc not in places:
        loc = loc[:-1]
    return loc
