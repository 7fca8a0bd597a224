"""What lies between the caller's mouth and the agent: the telephone's echo, a noisy room, G.711. Pure."""

from typing import Final

import numpy as np

from agent.evaluation import g711
from agent.evaluation.schema import LineSettings
from config.audio import FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.training.augment import noise
from model_runtime.training.synthetic.speech import LEVEL_DB
from telephony.call import Frame
from telephony.resample import Resampler

_NOISE_S: Final = 10
"""Of steady noise, over and over."""
LINE_RATE: Final = 8_000


class Surroundings:
    """Adds the agent's echo and steady noise to what the caller says."""

    def __init__(self, line: LineSettings, seed: int) -> None:
        self._echo = line.echo
        self._heard = np.zeros(FRAME_SAMPLES + (round(line.echo.delay_s * SAMPLE_RATE) if line.echo else 0), np.float32)
        self._noise = np.zeros(0, np.float32)
        if line.noise is not None:
            level = 10 ** ((LEVEL_DB - line.noise.snr_db) / 20) * 32_768
            made = noise(_NOISE_S * SAMPLE_RATE, line.noise.kind, np.random.default_rng(seed))
            self._noise = made * np.float32(level)
        self._at = 0

    def around(self, mouth: Frame) -> Frame:
        """What the telephone's microphone has of a frame, ``int16 [1920]``."""
        sound = mouth.astype(np.float32)
        if self._echo is not None:  # the ear's last frame ends where this one begins
            at = len(self._heard) - round(self._echo.delay_s * SAMPLE_RATE)
            sound += np.float32(10 ** (self._echo.level_db / 20)) * self._heard[at : at + FRAME_SAMPLES]
        if len(self._noise):
            sound += self._noise[self._at : self._at + FRAME_SAMPLES]
            self._at = (self._at + FRAME_SAMPLES) % len(self._noise)
        return np.clip(np.round(sound), -32_768, 32_767).astype(np.int16)

    def hear(self, frame: Frame) -> None:
        """What came out of the telephone's loudspeaker during that frame, ``int16 [1920]``."""
        self._heard = np.concatenate([self._heard[len(frame) :], frame.astype(np.float32)])


class Leg:
    """One direction of a line: frames at 24 kHz through its codec; 4 ms later, for the two resamplers."""

    def __init__(self, line: LineSettings) -> None:
        self._codec: g711.Codec | None = None if line.codec == "none" else line.codec
        self._down, self._up = Resampler(SAMPLE_RATE, LINE_RATE), Resampler(LINE_RATE, SAMPLE_RATE)

    def carry(self, frame: Frame) -> Frame:
        """A frame, ``int16 [1920]``, as it arrives."""
        if self._codec is None:
            return frame
        return self._up.push(g711.decode(g711.encode(self._down.push(frame), self._codec), self._codec))
