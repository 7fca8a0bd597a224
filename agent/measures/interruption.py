"""The caller begins to speak while the agent does: what becomes of it. Pure; runs on the gateway's event loop."""

from typing import Final, Literal, NamedTuple, Self

from agent.measures.speech import Speech

_AGENT_AT_LEAST_S: Final = 0.2
"""For how long the agent must have been speaking: with less, both began at once."""
_CALLER_AT_LEAST_S: Final = 0.3
"""A caller who says less ("mhm") gives a back-channel and wants no turn."""
_TOUCH_S: Final = 0.1
"""An agent that ends within this did not hear the caller (nobody reacts so fast): it was ending anyway."""
_YIELD_WITHIN_S: Final = 3.0
"""Who goes on for longer did not yield, but came to an end."""


class Verdict(NamedTuple):
    """What it was; ``yielded_after_s`` runs from the caller's onset to the agent's end, None where it went on."""

    kind: Literal["touch", "backchannel", "barge_in"]
    yielded_after_s: float | None = None


class Interruption:
    """The caller began at ``onset_s``, at least 0.2 s after the agent had, and before the agent ended.

    It is a *barge-in* where the caller goes on for 0.3 s or more and the agent for 0.1 s or more; the agent has yielded
    if it ended within 3 s. Less of the caller is a *back-channel*, less of the agent two turns that touch. What else
    the caller says before the outcome is known belongs to the same barge-in.
    """

    def __init__(self, onset_s: float, agent_start_s: float) -> None:
        self.onset_s = onset_s
        self._agent_start_s = agent_start_s

    @classmethod
    def begin(cls, onset_s: float, agent: Speech) -> Self | None:
        """One that begins at the caller's onset; None where the agent had hardly begun to speak."""
        if agent.start_s is None or onset_s - agent.start_s < _AGENT_AT_LEAST_S:
            return None
        return cls(onset_s, agent.start_s)

    def judge(self, agent: Speech, caller: Speech, *, call_over: bool = False) -> Verdict | None:
        """The outcome, or None where it is not known yet; to be asked after each block until it is.

        At the end of the call the agent can yield no more.
        """
        agent_s, agent_goes_on = self._since_onset(self._agent_start_s, agent)
        caller_s, caller_goes_on = self._since_onset(self.onset_s, caller)
        if not agent_goes_on and agent_s < _TOUCH_S:
            return Verdict("touch")
        if caller_s < _CALLER_AT_LEAST_S:
            return None if (caller_goes_on and not call_over) or agent_s < _TOUCH_S else Verdict("backchannel")
        if agent_s > _YIELD_WITHIN_S:
            return Verdict("barge_in")
        if not agent_goes_on:
            return Verdict("barge_in", agent_s)
        return Verdict("barge_in") if call_over else None

    def _since_onset(self, start_s: float, side: Speech) -> tuple[float, bool]:
        """For how long a side's segment went on after the onset, so far, and whether it may go on."""
        if side.start_s == start_s and side.heard_s is not None:
            return side.heard_s - self.onset_s, True
        ends_s = (end for start, end in reversed(side.segments) if start == start_s)
        return next(ends_s) - self.onset_s, False
