"""How one run of an action went: a value, kept in the call's record."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

TriggerKind = Literal["agent_says", "agent_says_regex", "dtmf", "api"]
"""What set an action off."""

Result = Literal["done", "failed", "timed_out", "cancelled"]
"""``cancelled``: the call ended in the midst of it."""


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """One run of an action, without anything said or pressed; times in seconds, ``started_s`` on the call's clock.

    ``detail`` says which step failed and why, for an operator; ``steps`` are the kinds of the steps that were done.
    """

    name: str
    trigger: TriggerKind
    started_s: float
    duration_s: float
    result: Result
    detail: str = ""
    steps: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON has it, for the record and the event."""
        return asdict(self) | {"steps": list(self.steps)}
