"""How a call ended, as a value."""

from dataclasses import dataclass
from enum import Enum
from typing import Self

from telephony.transfer import parse_target


class EndResult(Enum):
    """The verdict on a call, for metrics."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EndCause:
    """Why a call ended: a verdict, a reason in words, and the SIP status where one was sent (RFC 3261 section 21).

    ``contact`` is the SIP URI that a caller is told to call instead, with a 3xx status.
    """

    result: EndResult
    reason: str
    sip_status: int | None = None
    contact: str = ""

    @classmethod
    def peer_hung_up(cls) -> Self:
        """The caller sent BYE."""
        return cls(EndResult.COMPLETED, "caller hung up", 200)

    @classmethod
    def hung_up(cls, reason: str) -> Self:
        """Denwa sent BYE, for a reason that is no fault."""
        return cls(EndResult.COMPLETED, reason, 200)

    @classmethod
    def transferred(cls) -> Self:
        """The caller is with somebody else now, and Denwa sent BYE (RFC 5589)."""
        return cls(EndResult.COMPLETED, "caller transferred", 200)

    @classmethod
    def redirected(cls, uri: str) -> Self:
        """The caller is told to call ``uri`` instead (302), before any answer; raises ``ValueError`` for no SIP URI."""
        return cls(EndResult.REJECTED, "caller redirected", 302, parse_target(uri))

    @classmethod
    def cancelled(cls) -> Self:
        """The caller gave up before the answer."""
        return cls(EndResult.CANCELLED, "caller cancelled", 487)

    @classmethod
    def busy(cls, reason: str) -> Self:
        """Nothing free to take the call; it may be tried again later."""
        return cls(EndResult.REJECTED, reason, 503)

    @classmethod
    def server_error(cls, reason: str) -> Self:
        """A fault on Denwa's side."""
        return cls(EndResult.FAILED, reason, 500)

    @classmethod
    def line_lost(cls) -> Self:
        """The line worker died with the call on it."""
        return cls(EndResult.FAILED, "line worker lost", 500)
