"""docs/config.md says of every key what the schema says."""

import json
from pathlib import Path
from typing import Any

from config.schema import Settings

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
SCHEMA = Settings.model_json_schema()
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}


def rows(node: dict[str, Any], path: str = "") -> list[str]:
    """A row for every key below ``path``: ``| `sip.max_calls` | `12` | meaning |``."""
    node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
    found = [row for option in node.get("anyOf", []) for row in rows(option, path)]
    for entry in [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]:
        found += rows(entry, f"{path}.NAME") if isinstance(entry, dict) else []
    found += rows(node["items"], f"{path}[]") if isinstance(node.get("items"), dict) else []
    for name, child in node.get("properties", {}).items():
        key = f"{path}.{name}".lstrip(".")
        below = rows(child, key)
        found += below or [f"| `{key}` | {_default(child)} | {_meaning(child)} |"]
    return found


def _default(child: dict[str, Any]) -> str:
    if "default" not in child:
        return "required"
    value = child["default"]
    shown = [
        each if isinstance(each, str) else json.dumps(each) for each in (value if isinstance(value, list) else [value])
    ]
    return ", ".join(f"`{each}`" for each in shown if value is not None) or "none"


def _meaning(child: dict[str, Any]) -> str:
    node = child | next((each for each in child.get("anyOf", []) if each.get("type") != "null"), {})
    choices = f" One of {', '.join(f'`{each}`' for each in node['enum'])}." if "enum" in node else ""
    bounds = " and ".join(f"{words} {node[name]}" for name, words in BOUNDS.items() if name in node)
    return child["description"].replace("``", "`") + choices + (f" {bounds.capitalize()}." if bounds else "")


def test_every_key_is_documented() -> None:
    """The page has a row for every key, with its default and bounds, in the schema's own words; and no other row."""
    written = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert written == rows(SCHEMA)
