"""What no section can know alone: names that must exist elsewhere, sums that must fit, routes never reached.

Works on the values as written, so that a fault in one section hides none in another. Pure.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from pydantic import ValidationError

from config.document import Key
from config.schema import PortRange, SipSettings
from config.wording import nearest

Fault = tuple[Key, str]
"""Where, and what is wrong in words."""

PORTS_PER_CALL: Final = 4
"""Two for RTP and RTCP, and as many again: ports of a call that just ended rest for a while."""
SPARE_PORTS: Final = 32
"""For the spare line worker, and one not quite full, of four calls each."""

MAX_COMPARED: Final = 1_000
"""Each route is compared with every earlier one."""

CONDITIONS: Final = ("called", "caller", "trunk")
"""The keys of a route that must hold, in the order in which they are tried."""


def reference_faults(data: Mapping[str, Any]) -> Iterator[Fault]:
    """Everything that makes the configuration unusable, though each section may be right by itself."""
    models, agents, trunks = (_mapping(data.get(name)) for name in ("models", "agents", "trunks"))
    for name, agent in agents.items():
        yield from _unknown(("agents", name, "model"), _mapping(agent).get("model"), "model", models)
        yield from _voiceless(name, _mapping(agent), models)
        yield from _other_agents(("agents", name), _mapping(agent), agents)
    for index, route in enumerate(_list(data.get("routes"))):
        written = _mapping(route)
        yield from _unknown(("routes", index, "agent"), written.get("agent"), "agent", agents)
        yield from _unknown(("routes", index, "trunk"), written.get("trunk"), "trunk", trunks)
        for condition in CONDITIONS:
            if condition in written and written[condition] in (None, ""):
                message = "is empty; give a pattern, or leave the key out to take every call"
                yield ("routes", index, condition), message
        override = _mapping(written.get("override"))
        yield from _unknown(("routes", index, "override", "model"), override.get("model"), "model", models)
        yield from _other_agents(("routes", index, "override"), override, agents)
    yield from _too_few_ports(_mapping(data.get("sip")))


def unreached_routes(data: Mapping[str, Any]) -> Iterator[Fault]:
    """Routes, of the first 1,000, that no call can reach because an earlier one takes all that they would take."""
    routes = [_mapping(route) for route in _list(data.get("routes"))[:MAX_COMPARED]]
    for index, route in enumerate(routes):
        for earlier in range(index):
            if all(_covers(routes[earlier].get(name), route.get(name)) for name in CONDITIONS):
                yield ("routes", index), f"is never reached; routes[{earlier}] takes every such call: put it after this"
                break


def _unknown(key: Key, name: object, noun: str, known: Mapping[str, Any]) -> Iterator[Fault]:
    if isinstance(name, str) and name and name not in known:
        yield key, f"there is no {noun} {name!r}; {nearest(name, known)}"


def _other_agents(key: Key, agent: Mapping[str, Any], agents: Mapping[str, Any]) -> Iterator[Fault]:
    """The agents that one hands a call on to."""
    hours = _mapping(agent.get("hours"))
    yield from _unknown((*key, "hours", "closed_agent"), hours.get("closed_agent"), "agent", agents)
    for index, action in enumerate(_list(agent.get("actions"))):
        for number, step in enumerate(_list(_mapping(action).get("do"))):
            place = (*key, "actions", index, "do", number, "switch_agent")
            yield from _unknown(place, _mapping(step).get("switch_agent"), "agent", agents)


def _voiceless(name: str, agent: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[Fault]:
    """A voice needs a folder of voices where the model's workers are of this configuration."""
    model = agent.get("model")
    settings = _mapping(models.get(model)) if isinstance(model, str) else {}
    if agent.get("voice") and settings and not settings.get("voices") and not settings.get("workers"):
        yield ("agents", name, "voice"), f"models.{model} has no voices; write voices: FOLDER there, or no voice here"


def _too_few_ports(sip: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        ports = PortRange.model_validate(sip.get("rtp_ports") or {})
        max_calls = int(sip.get("max_calls") or SipSettings().max_calls)
    except (ValidationError, ValueError, TypeError):
        return  # reported where it stands
    there, wanted = ports.last - ports.first + 1, PORTS_PER_CALL * max_calls + SPARE_PORTS
    if there < wanted:
        last = ports.first + wanted - 1
        right = f"make last at least {last}" if last <= 65_535 else "begin lower, or lower sip.max_calls"
        key: Key = ("sip", "rtp_ports") if "rtp_ports" in sip else ("sip", "max_calls")
        yield key, f"{there} ports are too few for {max_calls} calls, which want {wanted}; {right}"


def _covers(pattern: object, other: object) -> bool:
    """Whether one condition holds wherever the other one does; may say no where that is hard to tell."""
    if pattern is None or pattern == other or pattern == "*":
        return True
    if not (isinstance(pattern, str) and isinstance(other, str)):
        return False
    return not any(sign in other for sign in "*?[") and fnmatchcase(other, pattern)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
