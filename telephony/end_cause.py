"""How a call ended, as a value."""

from dataclasses import dataclass
from enum import Enum
from typing import Self


class EndResult(Enum):
    """The verdict on a call, for metrics."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EndCause:
    """Why a call ended: a verdict, a reason in words, and the SIP status where one was sent (RFC 3261 section 21)."""

    result: EndResult
    reason: str
    sip_status: int | None = None

    @classmethod
    def peer_hung_up(cls) -> Self:
        """The caller sent BYE."""
        return cls(EndResult.COMPLETED, "caller hung up", 200)

    @classmethod
    def hung_up(cls, reason: str) -> Self:
        """Denwa sent BYE, for a reason that is no fault."""
        return cls(EndResult.COMPLETED, reason, 200)

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
