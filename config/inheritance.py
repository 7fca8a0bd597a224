"""What an agent's file inherits: ``agents/_base.yaml`` under every agent, a route's ``override`` on top of one. Pure.

Sections are merged key by key, everything else is replaced. Values keep the places where they were written.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from config.document import Document, Key


def merged(below: Any, above: Any) -> Any:
    """``above`` on top of ``below``: mappings key by key, anything else as a whole."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: merged(below[key], value) if key in below else value for key, value in above.items()}}


def inherit(document: Document, base: Document, agent: Key) -> None:
    """Put ``base`` under the document's agent at ``agent``, where that is a mapping."""
    agents, name = document.data["agents"], agent[-1]
    if not (isinstance(agents, dict) and isinstance(base.data, Mapping)):
        return
    own = {} if agents[name] is None else agents[name]
    if not isinstance(own, Mapping):
        return  # reported where it stands
    agents[name] = merged(deepcopy(base.data), own)
    for place_key, place in base.places.items():
        if place_key and _same_beginning(agents[name], base.data, place_key):
            document.places.setdefault((*agent, *place_key), place)


def _same_beginning(values: Any, base: Any, key: Key) -> bool:
    """Whether the value at ``key`` came from the base: a list that was replaced has places of its own."""
    for part in key:
        try:
            values, base = values[part], base[part]
        except (KeyError, IndexError, TypeError):
            return False
    return bool(values == base) or isinstance(values, Mapping)
