"""Dialogues as sound: what espeak-ng says on two channels, and what befalls the caller's on its way. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.training.augment import augment, noise
from model_runtime.training.recordings import MAIN_SPEAKER
from model_runtime.training.resample import Audio
from model_runtime.training.synthetic.dialogue import Clip, Dialogue, Said
from model_runtime.training.synthetic.script import Phrase, Wording, World
from model_runtime.training.synthetic.speech import LEVEL_DB, Speech, speak
from model_runtime.training.synthetic.voices import Voice

CALLER: Final = "SPEAKER_CALLER"
_FADE: Final = SAMPLE_RATE // 50
"""Samples over which a voice that is cut falls silent: 20 ms, just before the cut."""


class SpokenCast:
    """The agent, and a caller whose voice speaks when it is asked for."""

    aligned = False

    def __init__(self, world: World, agent: Mapping[str, Speech], voice: Voice, wording: Wording = "seen") -> None:
        """``agent`` is all that the agent says (``agent_speech``)."""
        self._world, self._agent, self._voice, self._wording = world, agent, voice, wording

    def agent(self, text: str) -> Speech:
        """The agent saying a text."""
        return self._agent[text]

    def caller(self, intent: str, random: np.random.Generator) -> tuple[Phrase, Clip]:
        """The caller wanting something."""
        wording: Wording = "seen" if intent not in self._world.intents else self._wording
        phrase = self._world.draw(intent, random, wording)
        return phrase, speak(phrase.text, self._voice)

    def cuts(self, clip: Clip) -> Sequence[int]:
        """The agent can be cut anywhere."""
        return range(1, int(clip.words[-1].end * SAMPLE_RATE / FRAME_SAMPLES))


def render(dialogue: Dialogue, world: World, random: np.random.Generator) -> Audio:
    """``float32 [2, frames * 1920]``: the agent, and the caller as it is heard."""
    samples = dialogue.frames * FRAME_SAMPLES
    agent, caller = np.zeros(samples, np.float32), np.zeros(samples, np.float32)
    for said in dialogue.said:
        assert isinstance(said.clip, Speech)
        channel = agent if said.speaker == "agent" else caller
        _place(channel, cut_short(said.clip.audio, _limit(said)), round(said.start * SAMPLE_RATE))
    for at in dialogue.bursts:
        _place(caller, burst(random), round(max(0.0, at) * SAMPLE_RATE))
    return np.stack([np.clip(agent, -1, 1), augment(caller, agent, world.channel, random)])


def cut_short(audio: Audio, limit: int | None) -> Audio:
    """``audio [n]`` that falls silent before sample ``limit``."""
    if limit is None or limit >= len(audio):
        return audio
    short = audio[:limit].copy()
    short[-_FADE:] *= np.linspace(1, 0, min(_FADE, limit), dtype=np.float32)
    return short


def burst(random: np.random.Generator) -> Audio:
    """A noise that is no speech: a knock, a rustle, a cough; up to the level of speech."""
    length = round(random.uniform(0.03, 0.35) * SAMPLE_RATE)
    at = np.arange(length) / length
    shape = np.minimum(1, at * 20) * np.exp(-at * random.uniform(2, 8))
    level = 10 ** ((LEVEL_DB + random.uniform(-12, 3)) / 20)
    made: Audio = (noise(length, "brown" if random.random() < 0.5 else "pink", random) * shape * level).astype(
        np.float32
    )
    return made


def about(dialogue: Dialogue) -> dict[str, Any]:
    """The file beside a recording: moshi-finetune's alignments, and what only Denwa's own training reads.

    ``caller`` are the caller's words, ``turns`` what was said by whom and what for, ``ended`` the last action.
    """
    return {
        "alignments": _alignments(dialogue, "agent", MAIN_SPEAKER),
        "caller": _alignments(dialogue, "caller", CALLER),
        "turns": [
            {
                "speaker": each.speaker,
                "kind": each.kind,
                "intent": each.intent,
                "text": " ".join(word.text for word in each.words()),
                "start": round(each.start + each.clip.words[0].start, 3),
                "end": round(each.end, 3),
                "cut": each.cut is not None,
            }
            for each in dialogue.said
        ],
        "ended": dialogue.ended,
    }


def _alignments(dialogue: Dialogue, speaker: Any, label: str) -> list[tuple[str, tuple[float, float], str]]:
    return [(word.text, (round(word.start, 3), round(word.end, 3)), label) for word in dialogue.words(speaker)]


def _limit(said: Said) -> int | None:
    return None if said.cut is None else round((said.cut - said.start) * SAMPLE_RATE)


def _place(channel: Audio, audio: Audio, at: int) -> None:
    there = channel[at : at + len(audio)]
    there += audio[: len(there)]
