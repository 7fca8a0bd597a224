"""Whether an agent answers now. Pure: the time is a parameter."""

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from config.agent_schema import OpeningHours
from config.opening import parse_period

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def is_open(hours: OpeningHours, now: datetime) -> bool:
    """Whether ``now``, which knows its time zone, lies within the hours; without ``open`` it always does."""
    if hours.open is None:
        return True
    local = now.astimezone(ZoneInfo(hours.timezone))
    if local.date() in hours.holidays:
        return False
    periods = hours.open.get(_DAYS[local.weekday()], [])
    return any(local.time() in parse_period(period) for period in periods)
