"""What an agent does about silence: asks whether the caller is still there, gives up, raises an alert. Pure."""

from dataclasses import dataclass
from typing import Literal, Protocol

from config.agent_schema import AgentConfig


class Silence(Protocol):
    """What is known of the silence in a call, from the edge's measures."""

    @property
    def quiet_s(self) -> float:
        """For how long neither side has spoken."""

    @property
    def agent_quiet_s(self) -> float:
        """For how long the agent has not been heard."""

    @property
    def caller_speaking(self) -> bool:
        """Whether the caller speaks now."""

    @property
    def caller_has_spoken(self) -> bool:
        """Whether he ever has."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done: ``say`` the text, ``end`` the call after it, or ``alert`` that the agent is not heard."""

    kind: Literal["say", "end", "alert"]
    text: str = ""


class SilenceLimits:
    """The silence limits of one agent in one call; ``look`` every 80 ms."""

    def __init__(self, agent: AgentConfig) -> None:
        self._agent = agent
        self._asked = 0
        self._since_s = 0.0
        self._alerted = False
        self._over = False

    def look(self, silence: Silence) -> Verdict | None:
        """What the silence so far demands, each demand once."""
        if silence.caller_speaking:
            self._asked = 0
        return self._caller(silence) or self._own(silence)

    def _caller(self, silence: Silence) -> Verdict | None:
        limit = self._agent.caller_silence_s
        if limit is None or self._over:
            return None
        if silence.quiet_s < self._since_s:  # somebody has spoken since
            self._since_s = 0.0
        if silence.quiet_s - self._since_s < limit:
            return None
        self._since_s = silence.quiet_s  # an agent that cannot be heard asks again all the same
        if self._asked < len(self._agent.still_there):
            self._asked += 1
            return Verdict("say", self._agent.still_there[self._asked - 1])
        self._over = True
        return Verdict("end", self._agent.silence_goodbye or "")

    def _own(self, silence: Silence) -> Verdict | None:
        limit = self._agent.agent_silence_s
        if limit is None or not silence.caller_has_spoken:
            return None
        silent = silence.agent_quiet_s >= limit
        if silent and not self._alerted:
            self._alerted = True
            return Verdict("alert")
        self._alerted = silent
        return None
