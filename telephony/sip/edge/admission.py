"""Who may place a call, decided before any line worker hears of it. Runs on the gateway's event loop.

Allow-list, a token bucket per source address, and limits on calls in total and per source. Time is a parameter.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Protocol

from config.schema import SipRateLimit, SipSettings
from telephony.transfer import parse_target

MAX_SOURCES: Final = 4_096


class Refused(Exception):  # an answer, no fault
    """An INVITE is not taken: the status to answer with, and after how many seconds to try again.

    ``contact`` is the SIP URI to call instead, with a 302; raises ``ValueError`` for any other URI.
    """

    def __init__(self, status: int, reason: str, retry_after_s: int | None = None, contact: str = "") -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.contact = parse_target(contact) if contact else ""


class Line(Protocol):
    """A place on a line worker, kept for one call."""

    @property
    def sip_address(self) -> tuple[str, int]:
        """Where the worker listens for SIP over UDP."""

    def release(self) -> None:
        """Give the place back: the INVITE came to nothing. Idempotent, and without effect on a call that runs."""


@dataclass(frozen=True, slots=True)
class Load:
    """How full the gateway is, as OPTIONS tells it."""

    calls: int
    max_calls: int

    @property
    def full(self) -> bool:
        """Whether a further call would be refused."""
        return self.calls >= self.max_calls


class TokenBuckets:
    """A token bucket per source; sources unheard of for longest are forgotten when the table is full."""

    def __init__(self, limit: SipRateLimit, max_sources: int = MAX_SOURCES) -> None:
        self._limit = limit
        self._max_sources = max_sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # source -> tokens, at

    def take(self, source: str, now: float) -> bool:
        """Take a token of this source at ``now`` seconds; False where none is left."""
        tokens, at = self._buckets.pop(source, (float(self._limit.burst), now))
        tokens = min(float(self._limit.burst), tokens + max(0.0, now - at) * self._limit.per_s)
        taken = tokens >= 1.0
        self._buckets[source] = (tokens - 1.0 if taken else tokens, now)
        if len(self._buckets) > self._max_sources:
            self._buckets.popitem(last=False)
        return taken

    def __len__(self) -> int:
        return len(self._buckets)


class Admission:
    """The limits of one edge, and the calls it counts against them."""

    def __init__(self, settings: SipSettings) -> None:
        self._settings = settings
        self._buckets = TokenBuckets(settings.rate_limit)
        self._calls: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """How many calls are counted now."""
        return self._calls.total()

    def allows(self, source: str) -> bool:
        """Whether this address may speak to the edge at all; others get no answer, as if nothing listened."""
        try:
            address = ip_address(source.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._settings.allow)

    def within_rate(self, source: str, now: float) -> bool:
        """Count one request out of dialog against the source's rate; False where it is beyond."""
        return self._buckets.take(source, now)

    def begin(self, source: str) -> None:
        """Count a call of this source. Raises Refused (503) where a limit is reached."""
        settings = self._settings
        if self.calls >= settings.max_calls:
            raise Refused(503, "All lines busy", settings.retry_after_s)
        per_source = settings.max_calls_per_source
        if per_source is not None and self._calls[source] >= per_source:
            raise Refused(503, "Too many calls from this source", settings.retry_after_s)
        self._calls[source] += 1

    def end(self, source: str) -> None:
        """Count a call of this source no more."""
        self._calls[source] -= 1
        if self._calls[source] <= 0:
            del self._calls[source]
