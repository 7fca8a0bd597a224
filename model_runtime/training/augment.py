"""What befalls the caller's channel before the model hears it: level, room, noise, the agent's echo, the line. Pure.

The paper's augmentations of the user stream (arXiv 2410.00037, section 4.4), and a telephone channel beside them. All
randomness comes from the generator that is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from config.audio import SAMPLE_RATE
from model_runtime.training.resample import Audio
from model_runtime.training.telephone import PACKET, RATE, Law, convolve, draw_losses, telephone

Spectrum = NDArray[np.float64]
NoiseKind = Literal["white", "pink", "brown", "hum", "babble"]

_SLOPES: Final = {"white": 0.0, "pink": -0.5, "brown": -1.0}
"""Powers of the frequency that an amplitude falls with."""
_SPEECH: Final = 0.1
"""Of the largest energy of 20 ms: from here on something is taken for speech."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How often each thing befalls an example, and how much: the paper's, where it says."""

    gain: float = 0.5
    gain_db: tuple[float, float] = (-24.0, 15.0)
    noise: float = 0.3
    noise_snr_db: tuple[float, float] = (0.0, 30.0)
    echo: float = 0.3
    echo_delay_s: tuple[float, float] = (0.1, 0.5)
    echo_gain: tuple[float, float] = (0.0, 0.2)
    reverb: float = 0.3
    reverb_s: tuple[float, float] = (0.1, 0.6)
    telephone: float = 0.5
    loss: float = 0.3
    """Of the examples with a telephone line."""
    loss_share: tuple[float, float] = (0.0, 0.05)
    loss_burst: float = 1.5


def augment(user: Audio, agent: Audio, settings: Augmentation, random: np.random.Generator) -> Audio:
    """The caller's channel ``[n]`` as it arrives, ``agent [n]`` being what is said to the caller meanwhile.

    Each of the draws is made in each example, so that one setting does not change what another one does.
    """
    happens = random.random(6)
    chosen = _Amounts.draw(settings, random)
    inner = np.random.default_rng(random.integers(2**63))
    heard = user
    if happens[0] < settings.reverb:
        heard = reverb(heard, chosen.reverb_s, inner)
    if happens[1] < settings.noise:
        heard = add_noise(heard, chosen.noise_kind, chosen.snr_db, inner)
    if happens[2] < settings.gain:
        heard = heard * np.float32(10 ** (chosen.gain_db / 20))
    if happens[3] < settings.echo:
        heard = add_echo(heard, agent, chosen.echo_delay_s, chosen.echo_gain)
    if happens[4] < settings.telephone:
        packets = -(-len(heard) * RATE // (SAMPLE_RATE * PACKET))
        lost = happens[5] < settings.loss
        losses = draw_losses(packets, chosen.loss_share, settings.loss_burst, inner) if lost else None
        heard = telephone(heard, chosen.law, losses)
    return np.clip(heard, -1, 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Amounts:
    """How much of each, drawn for one example."""

    gain_db: float
    snr_db: float
    echo_delay_s: float
    echo_gain: float
    reverb_s: float
    loss_share: float
    noise_kind: NoiseKind
    law: Law

    @classmethod
    def draw(cls, settings: Augmentation, random: np.random.Generator) -> "_Amounts":
        kinds, laws = get_args(NoiseKind), get_args(Law)
        return cls(
            random.uniform(*settings.gain_db),
            random.uniform(*settings.noise_snr_db),
            random.uniform(*settings.echo_delay_s),
            random.uniform(*settings.echo_gain),
            random.uniform(*settings.reverb_s),
            random.uniform(*settings.loss_share),
            kinds[int(random.integers(len(kinds)))],
            laws[int(random.integers(len(laws)))],
        )


def add_echo(user: Audio, agent: Audio, delay_s: float, gain: float) -> Audio:
    """``user [n]`` with ``agent [n]`` returned so much later, at so much of its amplitude."""
    by = round(delay_s * SAMPLE_RATE)
    heard = user.copy()
    heard[by:] += np.float32(gain) * agent[: max(0, len(agent) - by)]
    return heard


def add_noise(audio: Audio, kind: NoiseKind, snr_db: float, random: np.random.Generator) -> Audio:
    """``audio [n]`` with noise over all of it, so far below the level of its speech.

    Without speech the level is that of a voice at -26 dBFS.
    """
    level = speech_level(audio) or 10 ** (-26 / 20)
    return audio + np.float32(level * 10 ** (-snr_db / 20)) * noise(len(audio), kind, random)


def noise(samples: int, kind: NoiseKind, random: np.random.Generator) -> Audio:
    """Noise ``[samples]`` of amplitude 1 (r.m.s.)."""
    if kind == "hum":  # of the mains, and a fan
        at = np.arange(samples, dtype=np.float32) * np.float32(2 * np.pi / SAMPLE_RATE)
        base = 50 if random.random() < 0.5 else 60
        made = np.float32(0.05) * random.standard_normal(samples, np.float32)
        for k in range(1, 9):
            made += np.float32(random.uniform(0.2, 1) / k) * np.sin(base * k * at + random.uniform(0, 6.28))
        return _at_unit(made)
    if kind == "babble":  # voices far away: noise as loud in each band, and as unsteady, as speech is
        made = np.zeros(samples, np.float32)
        for _ in range(5):
            band = _shaped(samples, partial(_around, random.uniform(150, 1500)), random)
            pace = random.standard_normal(max(2, samples * 12 // SAMPLE_RATE), np.float32)
            at = np.linspace(0, len(pace) - 1, samples, dtype=np.float32)
            made += band * np.interp(at, np.arange(len(pace)), np.maximum(0.1, 1 + pace)).astype(np.float32)
        return _at_unit(made)
    return _shaped(samples, partial(_sloping, _SLOPES[kind]), random)


def _around(center: float, hz: Spectrum) -> Spectrum:
    return np.asarray(np.exp(-(np.log((hz + 1) / center) ** 2)))


def _sloping(power: float, hz: Spectrum) -> Spectrum:
    return np.asarray(np.maximum(hz, 20.0) ** power)


def _shaped(samples: int, shape: Callable[[Spectrum], Spectrum], random: np.random.Generator) -> Audio:
    """Normal noise ``[samples]`` whose spectrum has the ``shape`` of a function of the frequency in Hz; r.m.s. 1."""
    size = max(2, samples + samples % 2)
    drawn = random.standard_normal((size // 2 + 1, 2), np.float32)
    hz = np.asarray(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), np.float64)
    gain = shape(hz).astype(np.float32)
    made = torch.fft.irfft(torch.view_as_complex(torch.from_numpy(drawn * gain[:, None])), size).numpy()[:samples]
    return _at_unit(made)


def _at_unit(audio: Audio) -> Audio:
    return audio / np.float32(max(1e-9, float(np.sqrt(np.mean(audio**2))))) if len(audio) else audio


def reverb(audio: Audio, rt60_s: float, random: np.random.Generator, wet: float = 0.5) -> Audio:
    """``audio [n]`` in a room whose sound falls by 60 dB in ``rt60_s``; as loud as before, and not later.

    ``wet`` is the amplitude of what the walls return, relative to the direct sound.
    """
    at = np.arange(max(1, round(rt60_s * SAMPLE_RATE))) / SAMPLE_RATE
    tail = random.standard_normal(len(at)) * 10 ** (-3 * at / rt60_s)
    tail[: round(0.002 * SAMPLE_RATE)] = 0  # no wall is nearer than 0.3 m
    kernel = (wet * tail / max(1e-9, float(np.sqrt(np.sum(tail**2))))).astype(np.float32)
    kernel[0] += 1
    heard = convolve(audio, kernel / np.float32(np.sqrt(1 + wet**2)))[: len(audio)]
    return heard


def speech_level(audio: Audio) -> float:
    """The amplitude (r.m.s.) of ``audio [n]`` where something is said; 0 where nothing is."""
    hop = SAMPLE_RATE // 50
    energy = np.square(audio[: len(audio) // hop * hop].reshape(-1, hop)).mean(1)
    if not len(energy) or energy.max() <= 1e-10:
        return 0.0
    return float(np.sqrt(energy[energy >= _SPEECH * energy.max()].mean()))
