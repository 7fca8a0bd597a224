"""Conversations made of sound whose beginnings and ends are known, as ``ConversationMeasures`` hears them."""

import shutil
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.measures.conversation import ConversationMeasures
from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from telephony.call import Frame

Signal = NDArray[np.float64]
"""Samples at 24 kHz, full scale at 1."""


def about(seconds: float, tolerance: float = 0.04) -> Any:
    """Equal to ``seconds``, give or take what a measure may be off."""
    return pytest.approx(seconds, abs=tolerance)


def at_level(signal: Signal, dbfs: float) -> Signal:
    """The signal with its mean square at ``dbfs``."""
    loudness = np.sqrt(np.mean(signal * signal))
    return np.asarray(signal * (10 ** (dbfs / 20) / loudness))


def voice(seconds: float, dbfs: float = -24.0, pitch: float = 130.0) -> Signal:
    """A hum of twelve harmonics that rises and falls four times a second by 12 dB, at its loudest at both ends."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * pitch * n * t + n * n) / n for n in range(1, 13))
    syllables = 0.625 + 0.375 * np.cos(2 * np.pi * round(4 * seconds) * t / seconds)
    return at_level(np.asarray(hum * syllables), dbfs)


def noise(seconds: float, dbfs: float, seed: int = 1) -> Signal:
    """White noise."""
    return at_level(np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE)), dbfs)


def spoken(text: str, folder: Path, dbfs: float = -24.0) -> tuple[Signal, float, float]:
    """What espeak-ng says, with when its sound begins and ends, in s: the first and last 5 ms above -45 dBFS."""
    program = shutil.which("espeak-ng")
    assert program is not None
    file = folder / "spoken.wav"
    subprocess.run([program, "-w", str(file), "-s", "150", text], check=True)
    with wave.open(str(file)) as reader:
        rate = reader.getframerate()
        samples = np.frombuffer(reader.readframes(reader.getnframes()), np.int16) / 32768
    times = np.arange(round(samples.size * SAMPLE_RATE / rate)) * rate / SAMPLE_RATE
    signal = at_level(np.interp(times, np.arange(samples.size), samples), dbfs)
    pieces = signal[: signal.size // 120 * 120].reshape(-1, 120)
    loud = np.flatnonzero(np.mean(pieces * pieces, axis=1) > 10**-4.5)
    return signal, float(loud[0]) * 0.005, float(loud[-1] + 1) * 0.005


class Scene:
    """Two channels of silence, into which sound is laid."""

    def __init__(self, seconds: float) -> None:
        size = round(seconds / FRAME_S) * FRAME_SAMPLES
        self.agent: Signal = np.zeros(size)
        self.caller: Signal = np.zeros(size)
        self.barge_ins: list[tuple[float, float | None]] = []
        self.told_at_s: list[float] = []

    def agent_says(self, at_s: float, sound: Signal) -> Self:
        """Lay ``sound`` into the agent's channel."""
        self._lay(self.agent, at_s, sound)
        return self

    def caller_says(self, at_s: float, sound: Signal) -> Self:
        """Lay ``sound`` into the caller's channel."""
        self._lay(self.caller, at_s, sound)
        return self

    def play(
        self, each: Callable[[ConversationMeasures, float], None] | None = None, *, lost: range = range(0)
    ) -> ConversationMeasures:
        """Measure it to its end; ``each`` is called after every block; the blocks numbered ``lost`` never come."""

        def on_barge_in(at_s: float, yielded_after_s: float | None) -> None:
            self.barge_ins.append((at_s, yielded_after_s))
            self.told_at_s.append(measures.duration_s)

        measures = ConversationMeasures(on_barge_in)
        for number, (left, right) in enumerate(zip(frames(self.agent), frames(self.caller), strict=True)):
            if number not in lost:
                measures.block(left, right, number * FRAME_S)
                if each is not None:
                    each(measures, (number + 1) * FRAME_S)
        measures.close()
        return measures

    @staticmethod
    def _lay(channel: Signal, at_s: float, sound: Signal) -> None:
        first = round(at_s * SAMPLE_RATE)
        channel[first : first + sound.size] += sound[: channel.size - first]


def frames(signal: Signal) -> list[Frame]:
    """The signal as frames, ``int16 [1920]``."""
    samples = np.clip(np.round(signal * 32768), -32768, 32767).astype(np.int16)
    return list(samples[: samples.size // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES))
