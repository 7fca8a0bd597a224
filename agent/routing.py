"""Which agent answers a call: the first route whose every condition holds. Pure; runs once per INVITE."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address

from config.schema import Route, Settings


@dataclass(frozen=True, slots=True)
class Decision:
    """Which agent answers, by which route, and what became of each route that was tried."""

    agent: str | None  # None: no route takes the call, 404
    route_index: int | None
    reasons: tuple[str, ...]  # one per route tried, in order; empty conditions hold


def route(settings: Settings, *, called: str, caller: str, trunk: str | None) -> Decision:
    """Choose the agent for a call by the numbers of both ends and the trunk it came on (None: none)."""
    reasons: list[str] = []
    for index, candidate in enumerate(settings.routes):
        fault = _first_fault(candidate, called, caller, trunk)
        if fault is None:
            reasons.append(f"holds: {_conditions(candidate)}")
            return Decision(candidate.agent, index, tuple(reasons))
        reasons.append(fault)
    return Decision(None, None, tuple(reasons))


def trunk_of(settings: Settings, address: str) -> str | None:
    """The trunk that sends from this IP address: the narrowest network that holds it, of equal ones the first."""
    source = _unmapped(address)
    best: tuple[int, str] | None = None
    for name, trunk in settings.trunks.items():
        for network in trunk.addresses:
            if source in network and (best is None or network.prefixlen > best[0]):
                best = (network.prefixlen, name)
    return best[1] if best else None


def is_allowed(settings: Settings, address: str) -> bool:
    """Whether the edge hears this IP address at all: it is in ``sip.allow`` or a trunk's; others get no answer."""
    source = _unmapped(address)
    return any(source in network for network in settings.sip.allow) or trunk_of(settings, address) is not None


def _unmapped(address: str) -> IPv4Address | IPv6Address:
    """An IPv4 peer heard on an IPv6 socket is an IPv4 peer (RFC 4291 section 2.5.5.2)."""
    source = ip_address(address.partition("%")[0])
    return getattr(source, "ipv4_mapped", None) or source


def _first_fault(candidate: Route, called: str, caller: str, trunk: str | None) -> str | None:
    if candidate.called is not None and not fnmatchcase(called, candidate.called):
        return f"called is {called!r}, not {candidate.called!r}"
    if candidate.caller is not None and not fnmatchcase(caller, candidate.caller):
        return f"caller is {caller!r}, not {candidate.caller!r}"
    if candidate.trunk is not None and trunk != candidate.trunk:
        return f"the call comes on {f'trunk {trunk!r}' if trunk else 'no trunk'}, not {candidate.trunk!r}"
    return None


def _conditions(candidate: Route) -> str:
    given = candidate.model_dump(include={"called", "caller", "trunk"}, exclude_none=True)
    return ", ".join(f"{name} {pattern!r}" for name, pattern in given.items()) or "it has no condition"
