"""An independent listener: does the agent's sound say what its text stream says? Needs the package pocketsphinx.

Its wheel has an English model. The grammar is small, the sentences of the world's agent, so it tells which of them it
was; the sound is dithered at -60 dB first, for exact zeros break it.
"""

import importlib
from typing import Any, Final

import numpy as np

from agent.evaluation.replies import plain
from agent.evaluation.talk import Held
from agent.evaluation.voice import joined, voiced
from config.audio import SAMPLE_RATE
from model_runtime.errors import LocalModelError
from model_runtime.training.resample import resample
from model_runtime.training.synthetic.script import World

_RATE: Final = 16_000
_DITHER: Final = 10 ** (-60 / 20) * 32_768
_PAUSE_S: Final = 0.6
_MARGIN_S: Final = 0.15


class RecogniserError(LocalModelError):
    """pocketsphinx is missing, or cannot be used."""


class Recogniser:
    """pocketsphinx with a grammar of all that a world's agent says."""

    def __init__(self, world: World) -> None:
        """Raises ``RecogniserError``."""
        try:
            package = importlib.import_module("pocketsphinx")
        except ImportError as error:
            raise RecogniserError("--recognise needs a package more: pip install pocketsphinx") from error
        self._decoder: Any = package.Decoder(samprate=_RATE, lm=None, loglevel="FATAL")
        known = [text for text in world.agent_texts if self._knows(text)]
        sentences = " | ".join(" ".join(plain(text.split())) for text in known)
        self._decoder.add_jsgf_string("agent", f"#JSGF V1.0; grammar agent; public <said> = ( {sentences} );")
        self._decoder.activate_search("agent")
        self._known = {tuple(plain(text.split())) for text in known}
        self._random = np.random.default_rng(0)

    def _knows(self, text: str) -> bool:
        """Whether its dictionary has every word."""
        return all(self._decoder.lookup_word(word) is not None for word in plain(text.split()))

    def check(self, held: Held) -> list[bool]:
        """For each thing that was said, of those that are sentences of the world: whether it was heard as that."""
        told = []
        for start, end in joined(voiced(held.agent), _PAUSE_S):
            words = plain(word.text for word in held.words if start - 0.3 <= word.at_s < end)
            if tuple(words) in self._known:
                told.append(self._heard(held, start - _MARGIN_S, end + _MARGIN_S) == words)
        return told

    def _heard(self, held: Held, start_s: float, end_s: float) -> list[str]:
        piece = held.agent[max(0, round(start_s * SAMPLE_RATE)) : round(end_s * SAMPLE_RATE)]
        sound = resample(piece.astype(np.float32), SAMPLE_RATE, _RATE)
        sound = sound + self._random.standard_normal(len(sound)).astype(np.float32) * np.float32(_DITHER)
        self._decoder.start_utt()
        self._decoder.process_raw(
            np.clip(sound, -32_768, 32_767).astype("<i2").tobytes(), no_search=False, full_utt=True
        )
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return [] if hypothesis is None else hypothesis.hypstr.split()
