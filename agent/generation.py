"""A configuration in use: its settings, its number, and its agents ready to answer.

Running calls keep the generation that they began with; a reload makes a new one for new calls. Built in a thread, for
it reads files; then immutable.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from agent.opening_hours import is_open
from agent.routing import Decision, route
from agent.sayable import checkpoint_findings, unsayable
from agent.sounds import SILENCE, Samples, SoundFault, read_sound
from config.agent_schema import AgentConfig, ConsentSettings
from config.errors import ConfigError, Finding
from config.inheritance import merged
from config.redaction import Redactor
from config.schema import Settings


@dataclass(frozen=True, slots=True)
class Persona:
    """An agent, ready to answer: its settings, and its sounds as ``int16 [n]`` at 24 kHz, empty where it has none."""

    name: str
    config: AgentConfig
    generation: int
    greeting: Samples
    consent: Samples
    message: Samples
    """What a caller hears whom no model can speak with."""
    closed: bool = False
    """It is outside of its hours: it says its greeting, which is the closed message, and hangs up."""


class Answer(NamedTuple):
    """Who answers a call, and how that was decided; no persona: no route takes the call (404)."""

    persona: Persona | None
    decision: Decision


class Generation:
    """One configuration's worth of agents."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        agents: Mapping[str, Persona],
        routed: Mapping[int, Persona],
    ) -> None:
        """``routed`` are the agents of routes with an ``override``, by the route's index; see ``build``."""
        self.number = number
        self.settings = settings
        self.redactor = Redactor(settings.privacy.redact, settings.privacy.patterns)
        self._agents = agents
        self._routed = routed

    @classmethod
    def build(cls, number: int, settings: Settings, file: Path) -> Self:
        """Make every agent of ``settings``, read from ``file``, ready.

        Raises ``ConfigError`` for unfit sounds, for checkpoints that should have come with Denwa and did not, and for
        texts that the agent's model cannot say.
        """
        findings = list(checkpoint_findings(settings, file))
        agents = {name: _persona(name, config, number, file, findings) for name, config in settings.agents.items()}
        routed = {
            index: _persona(each.agent, overridden(settings.agents[each.agent], each.override), number, file, findings)
            for index, each in enumerate(settings.routes)
            if each.override
        }
        for persona in (*agents.values(), *routed.values()):
            findings += unsayable(persona.name, persona.config, settings.models[persona.config.model], file)
        if findings:
            raise ConfigError(list(dict.fromkeys(findings)))
        return cls(number, settings, agents, routed)

    def answer(self, *, called: str, caller: str, trunk: str | None, now: datetime) -> Answer:
        """Who answers a call at ``now``, opening hours included."""
        decision = route(self.settings, called=called, caller=caller, trunk=trunk)
        if decision.agent is None or decision.route_index is None:
            return Answer(None, decision)
        persona = self._routed.get(decision.route_index) or self._agents[decision.agent]
        hours = persona.config.hours
        if is_open(hours, now):
            return Answer(persona, decision)
        if hours.closed_agent is not None:
            return Answer(self._agents[hours.closed_agent], decision)
        return Answer(_closed(persona), decision)

    def persona(self, name: str) -> Persona | None:
        """The agent of that name, if there is one."""
        return self._agents.get(name)

    @property
    def models(self) -> set[str]:
        """The names of the models that its agents speak through."""
        return {persona.config.model for persona in self._everyone()}

    def _everyone(self) -> Iterator[Persona]:
        yield from self._agents.values()
        yield from self._routed.values()


def overridden(agent: AgentConfig, override: Mapping[str, object]) -> AgentConfig:
    """The agent with a route's ``override`` on top; the loader has found it right."""
    return AgentConfig.model_validate(merged(agent.model_dump(), override))


def _closed(persona: Persona) -> Persona:
    """The agent that only says that nobody is there."""
    silent: dict[str, object] = {"greeting_wav": None, "first_speaker": "agent", "consent": ConsentSettings()}
    config = persona.config.model_copy(update=silent | {"greeting": persona.config.hours.closed_message, "actions": []})
    return replace(persona, config=config, greeting=SILENCE, consent=SILENCE, closed=True)


def _persona(name: str, config: AgentConfig, number: int, file: Path, findings: list[Finding]) -> Persona:
    def sound(key: str, path: Path | None) -> Samples:
        if path is None:
            return SILENCE
        try:
            return read_sound(path)
        except SoundFault as fault:
            findings.append(Finding(str(file), 1, f"agents.{name}.{key}", str(fault)))
            return SILENCE

    return Persona(
        name,
        config,
        number,
        greeting=sound("greeting_wav", config.greeting_wav),
        consent=sound("consent.wav", config.consent.wav),
        message=sound("fallback.message_wav", config.fallback.message_wav),
    )
