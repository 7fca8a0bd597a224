"""What an agent says first, as the steps in which it is said: from a text, or from a recording and its words.

A recording becomes the codec's codes once, and is kept for the calls to come. Runs on the engine thread.
"""

import logging
from collections import OrderedDict
from collections.abc import Generator
from hashlib import sha256
from typing import Final

import numpy as np
import torch
from torch import Tensor

from config.audio import FRAME_SAMPLES
from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.mimi.codec import Mimi
from model_runtime.speech_plan import Row, plan_recording, plan_speech
from model_runtime.text import TextTokenizer

log = logging.getLogger(__name__)

_KEPT: Final = 32
"""Recordings whose codes are kept, the last used ones: of half a minute, 24 kB each."""
_FRAMES_AT_ONCE: Final = 25
_FULL_SCALE: Final = 32_768


class Greetings:
    """Plans greetings for one model."""

    def __init__(self, config: LanguageModelConfig, mimi: Mimi, tokenizer: TextTokenizer) -> None:
        self._config = config
        self._mimi = mimi
        self._tokenizer = tokenizer
        self._codes: OrderedDict[bytes, list[list[int]]] = OrderedDict()  # by the recording's hash

    def plan(self, text: str, audio: bytes) -> Generator[None, None, list[Row]]:
        """The steps that say ``text``, in the words of ``audio`` where it is given; a piece of work per item.

        ``audio`` is 24 kHz, mono, int16 little endian. Empty where there is nothing to say.
        """
        if not audio:
            return plan_text(text, self._tokenizer)
        key = sha256(audio).digest()
        if (codes := self._codes.get(key)) is None:
            recording = torch.from_numpy(np.frombuffer(audio, "<i2").astype(np.float32)).div_(_FULL_SCALE)
            encoded = yield from encode_recording(self._mimi, recording)
            codes = self._codes[key] = encoded[:, : self._config.dep_q].tolist()
            if len(self._codes) > _KEPT:
                self._codes.popitem(last=False)
        self._codes.move_to_end(key)
        return plan_recording(text, self._tokenizer, codes, self._config.delays[: 1 + self._config.dep_q])


def plan_text(text: str, tokenizer: TextTokenizer) -> list[Row]:
    """The steps that say ``text``; none, and a warning, where the model lacks a word: holes mislead."""
    if unknown := tokenizer.unknown_words(text):
        log.warning("model.text_not_said unknown_words=%d words=%d", len(unknown), len(text.split()))
        return []
    return plan_speech(text, tokenizer)


@torch.inference_mode()
def encode_recording(mimi: Mimi, samples: Tensor) -> Generator[None, None, Tensor]:
    """The codes ``[F, K]`` of ``samples [n]``, the last frame padded with zeros, as ``Mimi.encode`` has them.

    In pieces of two seconds, one per item.
    """
    device = next(mimi.parameters()).device
    audio = torch.nn.functional.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
    ring = mimi.config.context + 2 * _FRAMES_AT_ONCE - 1  # then pieces equal one pass, see kv_cache
    state, everyone = mimi.new_encoder_state(1, ring), torch.ones(1, device=device, dtype=torch.bool)
    codes = []
    for first in range(0, len(audio), _FRAMES_AT_ONCE * FRAME_SAMPLES):
        piece = audio[first : first + _FRAMES_AT_ONCE * FRAME_SAMPLES]
        codes.append(mimi.encode_frames(piece[None, None].to(device), state, everyone)[0].T)
        yield
    return torch.cat(codes).cpu()
