"""agent/opening_hours.py: when an agent answers."""

from datetime import UTC, datetime

import pytest

from agent.opening_hours import is_open
from config.agent_schema import OpeningHours

HOURS = OpeningHours.model_validate(
    {
        "timezone": "Europe/Berlin",
        "open": {"mon": ["08:30-12:00", "13:00-24:00"], "tue": ["00:00-24:00"]},
        "holidays": ["2026-12-28"],
        "closed_message": "Closed.",
    }
)


@pytest.mark.parametrize(
    ("moment", "opened"),
    [
        ("2026-11-23 07:29", False),  # a Monday in winter: Berlin is UTC+1
        ("2026-11-23 07:30", True),
        ("2026-11-23 10:59", True),
        ("2026-11-23 11:00", False),
        ("2026-11-23 12:00", True),
        ("2026-11-23 22:59", True),
        ("2026-11-23 23:30", True),  # Tuesday there
        ("2026-11-25 09:00", False),  # Wednesday is not named
        ("2026-06-22 06:30", True),  # summer: UTC+2
        ("2026-12-28 09:00", False),  # a holiday
    ],
)
def test_hours_count_on_the_agents_own_clock(moment: str, opened: bool) -> None:
    """Periods, missing days, holidays, summer time and a day that has begun elsewhere."""
    assert is_open(HOURS, datetime.fromisoformat(moment).replace(tzinfo=UTC)) is opened


def test_without_hours_it_is_always_open() -> None:
    """An agent that names none answers day and night."""
    assert is_open(OpeningHours(), datetime(2026, 1, 1, 3, tzinfo=UTC))
