"""Words with times and codes, as the tokens the language model is trained on (arXiv 2410.00037, section 3.4.4). Pure.

The text stream has PAD everywhere, a word's pieces one per frame from the frame it starts in on, and EPAD in the frame
before a word, where there is room for it: as moshi-finetune's interleaver, and as ``speech_plan`` forces text.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from config.audio import FRAME_RATE
from model_runtime.lm.delays import ZERO
from model_runtime.text import EPAD, PAD, TextTokenizer
from model_runtime.training.recordings import Word

_NEARLY: Final = 1e-6
"""Frames: a start that was computed to be on a boundary is on it."""


@dataclass(frozen=True, slots=True)
class TextSettings:
    """What is done to the text beside the audio."""

    delay_s: float = 0.0
    """How much later than the audio the text stands; negative: earlier."""
    jitter_s: float = 0.0
    """The delay of each example varies so much to both sides; 0.6 in the paper's pre-training, 0 in fine-tuning."""
    masked: float = 0.0
    """The share of examples without text, all of it ``ZERO`` and counting for nothing; 0.3 in pre-training."""
    keep_all: bool = True
    """Pieces that are still due when the next word starts are said first; else dropped, as in moshi-finetune."""


def text_stream(
    words: Sequence[Word], frames: int, tokenizer: TextTokenizer, *, delay_s: float = 0.0, keep_all: bool = True
) -> Tensor:
    """The text tokens ``int64 [frames]`` of ``words``, in the order of their starts, so much later than said."""
    tokens = [PAD] * frames
    due: deque[int] = deque()
    coming = deque(
        (int((word.start + delay_s) * FRAME_RATE + _NEARLY), word.text) for word in words if word.start + delay_s >= 0
    )
    for frame in range(frames):
        while coming and coming[0][0] <= frame:
            if not keep_all:
                due.clear()
            due.extend(tokenizer.encode(coming.popleft()[1].strip()))
        if due:
            if frame and tokens[frame - 1] == PAD:
                tokens[frame - 1] = EPAD
            tokens[frame] = due.popleft()
    return torch.tensor(tokens, dtype=torch.long)


def interleave(
    codes: Tensor, words: Sequence[Word], tokenizer: TextTokenizer, settings: TextSettings, random: torch.Generator
) -> Tensor:
    """The tokens ``int64 [17, T]`` of ``codes [16, T]`` (own, user) and the agent's words; without acoustic delays."""
    masked, jitter = torch.rand(2, generator=random).tolist()
    if masked < settings.masked:
        text = torch.full((codes.shape[1],), ZERO, dtype=torch.long)
    else:
        delay = settings.delay_s + settings.jitter_s * (2 * jitter - 1)
        text = text_stream(words, codes.shape[1], tokenizer, delay_s=delay, keep_all=settings.keep_all)
    return torch.cat([text[None], codes.long()])


def stream_delays(text: int = 0, acoustic: int = 1, codebooks: int = 8) -> tuple[int, ...]:
    """The delay in frames of each stream: text, own codes, user codes. 2 acoustic in pre-training, 1 afterwards."""
    audio = (0, *[acoustic] * (codebooks - 1))
    return (text, *audio, *audio)
