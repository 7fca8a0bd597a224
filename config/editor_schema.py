"""JSON Schemas of denwa.yaml and of an agent's file, for editors that complete and check while one types. Pure."""

from typing import Any, Literal

from config.agent_schema import AgentConfig
from config.schema import Settings

_REFERENCE = {"type": "string", "pattern": r"\$\{"}
"""``${NAME}`` may stand where a number or a choice is wanted."""


def editor_schema(kind: Literal["denwa", "agent"]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of file, as lenient as the loader."""
    schema = (Settings if kind == "denwa" else AgentConfig).model_json_schema()
    if kind == "denwa":
        schema["required"].remove("agents")  # they mostly lie in files of their own
    lenient: dict[str, Any] = _lenient(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | lenient


def _lenient(node: Any) -> Any:
    """The same schema, taking references for any scalar and unquoted numbers for text."""
    if isinstance(node, list):
        return [_lenient(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {name: value if name == "default" else _lenient(value) for name, value in node.items()}
    made.pop("title", None) if isinstance(made.get("title"), str) else None
    kind = made.get("type")
    if kind == "string" and not made.keys() & {"enum", "pattern", "format"}:
        return made | {"type": ["string", "number"]}
    if kind in ("integer", "number", "boolean", "string"):
        about = {name: made.pop(name) for name in ("description", "default") if name in made}
        return about | {"anyOf": [made, _REFERENCE]}
    return made
