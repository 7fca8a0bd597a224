"""Opening hours as an operator writes them: ``08:30-12:00``, a time zone, days. Pure."""

import re
from datetime import time
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_PERIOD: Final = re.compile(r"([0-2]?\d):([0-5]\d)-([0-2]?\d):([0-5]\d)")


class Period(NamedTuple):
    """A part of a day: ``start`` belongs to it, ``end`` does not; an end of None is midnight."""

    start: time
    end: time | None

    def __contains__(self, moment: object) -> bool:
        return isinstance(moment, time) and self.start <= moment and (self.end is None or moment < self.end)


def parse_period(text: str) -> Period:
    """``08:30-12:00``; the end may be ``24:00``. Raises ``ValueError`` with what would be right."""
    match = _PERIOD.fullmatch(text)
    if match is not None:
        hour, minute, end_hour, end_minute = map(int, match.groups())
        end = None if (end_hour, end_minute) == (24, 0) else (end_hour, end_minute)
        if hour < 24 and (end is None or (end_hour < 24 and (hour, minute) < end)):
            return Period(time(hour, minute), None if end is None else time(*end))
    raise ValueError(f"must be a period within one day, e.g. 08:30-12:00 (or until 24:00); got {text!r}")


def check_periods(periods: list[str]) -> list[str]:
    """Every period of a day."""
    for period in periods:
        parse_period(period)
    return periods


def check_timezone(name: str) -> str:
    """A time zone of the IANA database."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"is no time zone; write one like Europe/Berlin or UTC; got {name!r}") from None
    return name
