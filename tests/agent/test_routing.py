"""Routes: the first one whose every condition holds names the agent."""

from typing import Any

import pytest

from agent.routing import is_allowed, route, trunk_of
from config.schema import Settings


def settings(routes: list[dict[str, str]], trunks: dict[str, Any] | None = None) -> Settings:
    """Settings with these routes and trunks, and the agents they name."""
    return Settings.model_validate(
        {
            "sip": {"allow": ["127.0.0.0/8"]},
            "models": {"echo": {"kind": "echo"}},
            "agents": {each["agent"]: {"model": "echo"} for each in routes},
            "routes": routes,
            "trunks": trunks or {},
        }
    )


ROUTES = [
    {"agent": "both", "called": "1*", "caller": "2?"},
    {"agent": "trunk", "called": "1*", "trunk": "office"},
    {"agent": "exact", "called": "100"},
    {"agent": "star", "called": "[*]97"},
]


@pytest.mark.parametrize(
    ("called", "caller", "trunk", "agent"),
    [
        ("100", "22", None, "both"),
        ("100", "222", "office", "trunk"),
        ("100", "222", "home", "exact"),
        ("100", "", None, "exact"),
        ("*97", "", None, "star"),
        ("097", "", None, None),
        ("", "", None, None),
    ],
)
def test_the_first_route_whose_conditions_hold_wins(
    called: str, caller: str, trunk: str | None, agent: str | None
) -> None:
    """Every condition that a route gives must hold; routes are tried in order."""
    decision = route(settings(ROUTES), called=called, caller=caller, trunk=trunk)
    assert decision.agent == agent
    assert decision.route_index == next((i for i, each in enumerate(ROUTES) if each["agent"] == agent), None)


def test_each_route_tried_has_its_reason() -> None:
    """There is one reason per route tried, the last of which says what held."""
    decision = route(settings(ROUTES), called="100", caller="5", trunk=None)
    assert decision.reasons == (
        "caller is '5', not '2?'",
        "the call comes on no trunk, not 'office'",
        "holds: called '100'",
    )


def test_numbers_are_compared_with_case() -> None:
    """The user part of a SIP URI is case-sensitive (RFC 3261 section 19.1.4)."""
    assert route(settings([{"agent": "a", "called": "Echo"}]), called="echo", caller="", trunk=None).agent is None


def test_a_trunk_is_known_by_the_narrowest_network() -> None:
    """Of networks that hold the source the narrowest names the trunk, of equal ones the first."""
    known = settings(
        [{"agent": "a"}],
        {
            "wide": {"addresses": ["192.0.2.0/24"]},
            "narrow": {"addresses": ["192.0.2.8/30", "2001:db8::/32"]},
            "late": {"addresses": ["192.0.2.0/24"]},
        },
    )
    sources = ["192.0.2.1", "192.0.2.9", "2001:db8::1", "::ffff:192.0.2.9", "198.51.100.1"]
    assert [trunk_of(known, source) for source in sources] == ["wide", "narrow", "narrow", "narrow", None]


def test_allowed_networks_and_trunks_may_call() -> None:
    """The edge hears the networks in sip.allow and the addresses of trunks."""
    known = settings([{"agent": "a"}], {"office": {"addresses": ["192.0.2.1"]}})
    sources = ["127.0.0.1", "::ffff:127.0.0.1", "192.0.2.1", "192.0.2.2", "::1"]
    assert [is_allowed(known, source) for source in sources] == [True, True, True, False, False]
