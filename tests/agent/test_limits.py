"""agent/limits.py: what silence leads to."""

from dataclasses import dataclass

from agent.limits import SilenceLimits, Verdict
from config.agent_schema import AgentConfig


@dataclass
class Silence:
    """What the edge would have measured."""

    quiet_s: float = 0.0
    agent_quiet_s: float = 0.0
    caller_speaking: bool = False
    caller_has_spoken: bool = False


def agent(**values: object) -> SilenceLimits:
    """The limits of an agent that has these settings."""
    return SilenceLimits(AgentConfig.model_validate({"model": "m", **values}))


def test_the_caller_is_asked_and_then_hung_up_on() -> None:
    """Each question once, in order, after another time of silence each; then the goodbye, once."""
    limits = agent(caller_silence_s=10, still_there=["one", "two"], silence_goodbye="bye")
    seen = []
    for tick in range(60):
        if verdict := limits.look(Silence(quiet_s=tick % 11)):  # the agent's own question ends the silence
            seen.append((tick, verdict))
    assert seen == [(10, Verdict("say", "one")), (21, Verdict("say", "two")), (32, Verdict("end", "bye"))]


def test_an_agent_that_cannot_be_heard_goes_on_to_the_end() -> None:
    """Where its question makes no sound the silence grows, and the next limit counts from the last."""
    limits = agent(caller_silence_s=10, still_there=["one"])
    assert [tick for tick in range(40) if limits.look(Silence(quiet_s=tick))] == [10, 20]


def test_a_caller_who_speaks_is_asked_from_the_first_question_on() -> None:
    """Questions start anew after each word of his."""
    limits = agent(caller_silence_s=10, still_there=["one"])
    assert limits.look(Silence(quiet_s=10)) == Verdict("say", "one")
    assert limits.look(Silence(quiet_s=0, caller_speaking=True)) is None
    assert limits.look(Silence(quiet_s=10)) == Verdict("say", "one")


def test_a_silent_agent_is_an_alert_once_per_silence() -> None:
    """Only after the caller has said something, and again only after the agent was heard."""
    limits = agent(agent_silence_s=5)
    assert limits.look(Silence(agent_quiet_s=9)) is None
    assert limits.look(Silence(agent_quiet_s=9, caller_has_spoken=True)) == Verdict("alert")
    assert limits.look(Silence(agent_quiet_s=10, caller_has_spoken=True)) is None
    assert limits.look(Silence(agent_quiet_s=0, caller_has_spoken=True)) is None
    assert limits.look(Silence(agent_quiet_s=5, caller_has_spoken=True)) == Verdict("alert")


def test_without_limits_nothing_happens() -> None:
    """By default an agent waits for ever."""
    assert agent().look(Silence(quiet_s=1e6, agent_quiet_s=1e6, caller_has_spoken=True)) is None
