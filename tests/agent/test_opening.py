"""agent/opening.py: announcement, greeting, and who speaks first."""

from pathlib import Path

import numpy as np
import pytest

from agent.generation import Persona
from agent.opening import Opening
from agent.sounds import SILENCE
from config.agent_schema import AgentConfig
from config.audio import FRAME_SAMPLES

FRAMES = 4
SOUND = np.full(FRAMES * FRAME_SAMPLES - 7, 9, np.int16)


def opening(*, consent_sound: bool = False, greeting_sound: bool = False, **values: object) -> Opening:
    """The opening of an agent with these settings."""
    config = AgentConfig.model_validate({"model": "m", **values})
    consent, greeting = (SOUND if given else SILENCE for given in (consent_sound, greeting_sound))
    return Opening(Persona("a", config, 1, greeting=greeting, consent=consent, message=SILENCE))


def test_a_greeting_is_what_the_model_is_opened_with() -> None:
    """Nothing is withheld, nothing waits, nothing is forced later."""
    it = opening(greeting="hello")
    assert (it.prompt.greeting, it.prompt.wait, it.withheld) == ("hello", False, False)
    assert [it.due(True) for _ in range(100)] == [None] * 100


def test_the_caller_is_withheld_until_the_announcement_is_said() -> None:
    """From the first step to the first free one after the script; then the greeting is forced, once."""
    it = opening(consent={"text": "recorded"}, greeting="hello")
    assert (it.prompt.greeting, it.withheld) == ("recorded", True)
    steps = [False, True, True, True, False, False]
    seen = []
    for scripted in steps:
        seen.append((it.stepped(scripted), it.withheld, it.due(False)))
    assert seen == [(False, True, None)] * 4 + [(True, False, "hello"), (False, False, None)]


def test_announcement_and_greeting_as_files_are_one_sound() -> None:
    """In whole frames; the announcement is over with its last one, while the greeting is still being said."""
    it = opening(
        consent={"text": "recorded", "wav": Path("c.wav")},
        greeting="hello",
        greeting_wav=Path("g.wav"),
        consent_sound=True,
        greeting_sound=True,
    )
    assert it.prompt.greeting == "recorded hello"
    assert len(it.prompt.greeting_audio) == 2 * 2 * FRAMES * FRAME_SAMPLES
    assert [it.stepped(True) for _ in range(2 * FRAMES)].index(True) == FRAMES - 1
    assert it.due(True) is None


def test_a_model_that_says_no_announcement_does_not_withhold_the_caller_for_ever() -> None:
    """The line test says nothing of its own: after three seconds the caller is let through."""
    it = opening(consent={"text": "recorded"})
    over = [it.stepped(False) for _ in range(60)]
    assert over.index(True) == 37
    assert not it.withheld


@pytest.mark.parametrize(("spoke_at", "begins_at"), [(3, 3), (None, 24)])
def test_the_caller_may_speak_first(spoke_at: int | None, begins_at: int) -> None:
    """The model keeps silent until he has, or until he has had his time; then it may begin."""
    it = opening(first_speaker="caller", first_speaker_wait_s=2, greeting="hello")
    assert it.prompt.wait
    due = [it.due(spoke_at is not None and tick >= spoke_at) for tick in range(40)]
    assert [tick for tick, text in enumerate(due) if text is not None] == [begins_at]
    assert due[begins_at] == ""
    assert not it.prompt.wait
