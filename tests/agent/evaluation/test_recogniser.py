"""agent/evaluation/recogniser.py: whether sound says what its text does."""

from dataclasses import replace

import numpy as np
import pytest

from agent.evaluation.ear import Word
from agent.evaluation.plan import Plan
from agent.evaluation.recogniser import Recogniser
from agent.evaluation.talk import Held
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.speech import begin_anew, speak
from model_runtime.training.synthetic.voices import Voice

pytestmark = pytest.mark.peer("espeak-ng")

WORLD = World.load()


def test_text_and_sound_are_compared() -> None:
    """A sentence is heard as what its text says; under another one's words it is not. Silence tells nothing."""
    pytest.importorskip("pocketsphinx")
    recogniser = Recogniser(WORLD)
    begin_anew()
    said, other = (speak(text, WORLD.agent) for text in (WORLD.intents["parking"].replies[0].say, WORLD.greeting))
    silence = np.zeros(24_000, np.float32)
    agent = np.round(np.concatenate([silence, said.audio, silence, silence]) * 32_767).astype(np.int16)
    words = [Word(1 + word.start, word.text) for word in said.words]
    held = Held(Plan(0, 0, Voice("some"), ()), [], agent, agent, words)
    assert recogniser.check(held) == [True]
    wrong = [Word(1 + word.start, word.text) for word in other.words]
    assert recogniser.check(replace(held, words=wrong)) == [False]
    assert recogniser.check(replace(held, agent=np.zeros_like(agent))) == []
