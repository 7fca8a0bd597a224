"""What a model is told before a conversation: steps in which every stream is given. Runs on the engine thread.

The sequence is PersonaPlex's: a sample of the voice it is to speak with, silence, the instructions through the text
stream, silence; the user's side is a sine tone throughout (code of NVIDIA/personaplex, MIT). Frame 0 is lost, as in
every conversation. The last frame is not part of the prompt but of the first step that follows it, in which nothing is
heard.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.errors import CheckpointError
from model_runtime.lm.delays import NOT_FORCED
from model_runtime.loudness import normalise, read_wav
from model_runtime.mimi.codec import Mimi
from model_runtime.text import PAD, TextTokenizer

SILENCE: Final = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
"""Codes of silence of the published codec."""
SINE: Final = (430, 1268, 381, 1611, 1095, 1495, 56, 472)
"""Codes of 440 Hz at half of full scale of the published codec."""
PUBLISHED_BINS: Final = 2048
_SILENT_FRAMES: Final = 6
"""Half a second."""
_VOICE_LUFS: Final = -24.0
_VOICE_FRAMES: Final = 250
"""At most 20 s of a voice sample are used."""


@dataclass(frozen=True)
class Voice:
    """A sample of a voice as a model takes it in."""

    frames: Tensor  # [F, 8] int64 own codes, or of a published .pt file [F, 17] all streams, delays undone
    embeddings: Tensor | None = None  # [M, dim]: stands for what the first M steps read


@dataclass(frozen=True)
class Prompt:
    """Steps that a conversation begins after, every stream of which is given."""

    rows: Tensor  # [P, 17] int64, as in lm/delays.py
    next_row: Tensor  # [17] int64: what is forced in the first step of the conversation
    embeddings: Tensor | None = None  # [M, dim]: stands for what the first M steps read


class PersonaPrompts:
    """Builds prompts for one model."""

    def __init__(self, config: LanguageModelConfig, mimi: Mimi, tokenizer: TextTokenizer) -> None:
        self._config = config
        self._mimi = mimi
        self._tokenizer = tokenizer
        self._codebooks = max(config.dep_q, config.n_q - config.dep_q)  # the codec may have more, for a listener
        published = mimi.config.bins == PUBLISHED_BINS and self._codebooks == len(SILENCE)
        time = torch.arange(10 * FRAME_SAMPLES) / SAMPLE_RATE
        self._silence = torch.tensor(SILENCE) if published else self._last_codes(torch.zeros(len(time)))
        self._sine = torch.tensor(SINE) if published else self._last_codes((2 * torch.pi * 440 * time).sin() / 2)

    def build(self, instructions: str, voice: Voice | None) -> Prompt:
        """The prompt for ``instructions`` (may be empty) spoken of in ``voice`` (None: the model's own).

        Raises ``CheckpointError`` where both together take more than half of what the model remembers.
        """
        text = self._tokenizer.encode(f"<system> {instructions} <system>") if instructions else []
        parts = [] if voice is None else [self._voiced(voice)]
        parts.append(self._silent([PAD] * _SILENT_FRAMES + text + [PAD] * _SILENT_FRAMES))
        prompt = from_frames(torch.cat(parts), self._config, None if voice is None else voice.embeddings)
        if len(prompt.rows) > self._config.context // 2:
            raise CheckpointError(
                f"the prompt takes {len(prompt.rows)} steps; the model remembers {self._config.context}, of which a "
                "prompt may take half: use shorter instructions or a shorter voice sample"
            )
        return prompt

    @torch.inference_mode()
    def read_voice(self, path: Path) -> Voice:
        """Read a voice sample: a WAV file of 24 kHz, or a published .pt file. Raises ``CheckpointError``."""
        if path.suffix == ".pt":
            return self._read_embeddings(path)
        samples = normalise(read_wav(path), _VOICE_LUFS)
        return self.encode_voice(samples)

    @torch.inference_mode()
    def encode_voice(self, samples: NDArray[np.float32]) -> Voice:
        """The voice in ``samples`` of 24 kHz, the last frame padded with zeros."""
        audio = torch.from_numpy(samples[: _VOICE_FRAMES * FRAME_SAMPLES])
        frames = -(-len(audio) // FRAME_SAMPLES)
        audio = torch.nn.functional.pad(audio, (0, frames * FRAME_SAMPLES - len(audio)))
        return Voice(self._encode(audio).cpu())

    def _voiced(self, voice: Voice) -> Tensor:
        if voice.frames.shape[1] == self._config.streams:
            return voice.frames
        text = torch.full((len(voice.frames), 1), PAD)
        return torch.cat([text, voice.frames, self._sine.expand(len(voice.frames), -1)], dim=1)

    def _silent(self, text: list[int]) -> Tensor:
        count = len(text)
        given = torch.tensor(text, dtype=torch.long)[:, None]
        return torch.cat([given, self._silence.expand(count, -1), self._sine.expand(count, -1)], dim=1)

    def _read_embeddings(self, path: Path) -> Voice:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            embeddings, cache = content["embeddings"], content["cache"]
            steps, streams = len(embeddings), self._config.streams
            embeddings = embeddings.reshape(steps, self._config.dim)
            cache = cache.reshape(streams, -1).long()
        except Exception as error:  # torch.load and what it unpickles raise anything
            raise CheckpointError(f"{path}: no voice of this model: {type(error).__name__}: {error}") from error
        # Of the frames only the last two matter: what came before them stands in the embeddings.
        frames = torch.zeros(steps + 1, streams, dtype=torch.long)
        for stream, delay in enumerate(self._config.delays):
            frames[steps, stream] = cache[stream, (steps + delay) % cache.shape[1]]
            frames[steps - 1, stream] = cache[stream, (steps - 1 + delay) % cache.shape[1]]
        return Voice(frames.clamp_(min=0), embeddings)

    @torch.inference_mode()
    def _last_codes(self, audio: Tensor) -> Tensor:
        return self._encode(audio)[-1].cpu()

    def _encode(self, audio: Tensor) -> Tensor:
        """Codes ``[F, 8]`` of ``audio [F * 1920]``, frame by frame as in a conversation."""
        device = next(self._mimi.parameters()).device
        state, mask = self._mimi.new_encoder_state(1), torch.ones(1, device=device, dtype=torch.bool)
        frames = audio.to(device).view(-1, 1, 1, FRAME_SAMPLES)
        codes = torch.cat([self._mimi.encode_step(frame, state, mask) for frame in frames])
        return codes[:, : self._codebooks]


def from_frames(frames: Tensor, config: LanguageModelConfig, embeddings: Tensor | None = None) -> Prompt:
    """The prompt in which frame n of all streams, delays undone, is row n of ``frames [F, K]``; F is at least 2.

    Its first step reads initial tokens only, so of frame 0 nothing is ever read.
    """
    own, count = 1 + config.dep_q, len(frames)
    steps = torch.arange(count)
    rows = frames.clone()
    for stream, delay in enumerate(config.delays[:own]):
        rows[:, stream] = frames[(steps + 1 - delay).clamp(0, count - 1), stream]
        rows[count - 1 + delay :, stream] = NOT_FORCED
    return Prompt(rows[:-1], rows[-1], embeddings)
