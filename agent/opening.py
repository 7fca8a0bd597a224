"""How a conversation begins: the consent announcement, who speaks first, the greeting. Pure; the session asks it.

The announcement and the greeting are one script that the model is opened with where that can be; a greeting that has to
wait is forced later. While the announcement is said the caller's audio is withheld from the model, so nothing that he
says can interrupt it.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from agent.generation import Persona
from agent.sounds import whole_frames
from config.audio import FRAME_S
from model_runtime.worker.protocol import AgentPrompt

_UNHEARD_S: Final = 3.0
"""A model that has not begun to say the announcement by then will not (the line test); the caller is let through."""


class Opening:
    """The beginning of one agent's part of a call."""

    def __init__(self, persona: Persona) -> None:
        config = persona.config
        announced = [config.consent.text or ""] if config.consent.text or persona.consent.size else []
        together = not announced or bool(persona.consent.size and persona.greeting.size)
        texts = [*announced, config.greeting or ""] if together else announced
        sounds = [
            whole_frames(each).ravel()
            for each in (persona.consent, persona.greeting if together else None)
            if each is not None and each.size
        ]
        self.withheld = bool(announced)
        """Whether the model must not hear the caller yet."""
        self.wait = not announced and config.first_speaker == "caller"
        """Whether the model is to keep silent until it is forced."""
        self._prompt = AgentPrompt(
            instructions=config.instructions or "",
            voice=config.voice or "",
            greeting=" ".join(text for text in texts if text),
            greeting_audio=np.concatenate(sounds).tobytes() if sounds else b"",
        )
        self._announced_s = len(whole_frames(persona.consent)) * FRAME_S if persona.consent.size else None
        self._due = config.greeting if announced and not together else None
        self._caller_first = config.first_speaker == "caller"
        self._wait_s = config.first_speaker_wait_s
        self._began = False
        self._elapsed_s = 0.0
        self._waited_s = 0.0

    @property
    def pending(self) -> bool:
        """Whether something is still to be said that comes before all else: the announcement, a greeting after it."""
        return self.withheld or self._due is not None

    @property
    def prompt(self) -> AgentPrompt:
        """What the model is opened with now."""
        return replace(self._prompt, wait=self.wait)

    def stepped(self, scripted: bool) -> bool:
        """Note a step of the model; True once, when the announcement has been said."""
        if not self.withheld:
            return False
        self._began |= scripted
        self._elapsed_s += FRAME_S
        if self._announced_s is not None and self._began:
            over = self._elapsed_s >= self._announced_s
        else:
            over = not scripted if self._began else self._elapsed_s > _UNHEARD_S
        self.withheld = not over
        return over

    def due(self, caller_has_spoken: bool) -> str | None:
        """To be asked every 80 ms: the text to be forced now, once; an empty one lets the model begin."""
        if self.withheld or not (self.wait or self._due is not None):
            return None
        self._waited_s += FRAME_S
        if self._caller_first and not caller_has_spoken and self._waited_s < self._wait_s:
            return None
        text, self._due, self.wait = self._due or "", None, False
        return text
