"""How tokens are drawn: temperature, top-k, and randomness that belongs to the slot. Runs on the engine thread.

A token is drawn by an exponential race: the candidate with the greatest p / E, E ~ Exp(1), wins with probability p.
Each slot draws its E's from a generator of its own, so a seed reproduces a call whoever else is in the batch.
"""

from copy import copy
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model_runtime.text_bias import TextBias


@dataclass(frozen=True)
class Sampling:
    """How one conversation's tokens are drawn; a temperature of 0 takes the likeliest token."""

    audio_temperature: float = 0.8
    audio_top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25
    pad_bias: float = 0.0
    """Added to the logit of PAD, the text token of silence: the greater, the less is said."""
    repetition_penalty: float = 1.0
    """Of words said lately (``model_runtime.text_bias``), at least 1, which is none."""


GREEDY = Sampling(audio_temperature=0.0, text_temperature=0.0)


def draw(logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> Tensor:
    """One token ``[B]`` per row of ``logits [B, V]`` float32.

    ``temperature [B]`` and ``top_k [B]`` are per row; ``noise [B, C]`` is exponential with rate 1, one number per
    candidate in order of likelihood, so ``top_k`` is at most C. Exactly ``top_k`` candidates race, however many tie.
    """
    greedy = temperature <= 0
    ranked, tokens = logits.topk(noise.shape[1], dim=-1)  # [B, C]
    score = ranked / torch.where(greedy, 1.0, temperature)[:, None] - noise.log()
    out = torch.arange(noise.shape[1], device=logits.device) >= top_k[:, None]
    winner = score.masked_fill_(out, float("-inf")).argmax(-1, keepdim=True)
    return torch.where(greedy, logits.argmax(-1), tokens.gather(1, winner).squeeze(1))


@dataclass(frozen=True)
class _Race:
    """The settings and the noise of one kind of token, text or audio, for every slot."""

    temperature: Tensor  # [B]
    top_k: Tensor  # [B]
    noise: Tensor  # [B, draws, V]

    @classmethod
    def allocate(cls, slots: int, draws: int, card: int, device: torch.device) -> Self:
        return cls(
            torch.ones(slots, device=device),
            torch.ones(slots, device=device, dtype=torch.long),
            torch.ones(slots, draws, card, device=device),
        )

    def rows(self, count: int) -> Self:
        return replace(self, temperature=self.temperature[:count], top_k=self.top_k[:count], noise=self.noise[:count])

    def set(self, slot: int, temperature: float, top_k: int) -> Tensor:
        """Change one slot's settings; returns where its noise goes, ``[draws, top_k]``, empty if it needs none."""
        candidates = min(top_k, self.noise.shape[2])
        self.temperature[slot] = temperature
        self.top_k[slot] = candidates
        return self.noise[slot, :, : candidates if temperature > 0 else 0]

    def ranked(self, top_k: int, grain: int) -> int:
        """How many tokens to rank for ``top_k``: a multiple of ``grain``, or all."""
        return min(self.noise.shape[2], -(-top_k // grain) * grain)

    def draw(self, n: int, logits: Tensor, candidates: int) -> Tensor:
        return draw(logits, self.temperature, self.top_k, self.noise[:, n, :candidates])


class SlotSampler:
    """The sampling settings, the generators and the step's noise of every slot, and in ``text_bias`` what it said.

    ``candidates`` says how many of text and of audio tokens are ranked in a step: a number that only ever grows, with
    the largest ``top_k`` asked for, since a captured graph has it built in; on a GPU in steps of 256.
    """

    def __init__(self, slots: int, text_card: int, card: int, dep_q: int, device: torch.device) -> None:
        self._generators = [torch.Generator(device) for _ in range(slots)]
        self._text = _Race.allocate(slots, 1, text_card, device)
        self._audio = _Race.allocate(slots, dep_q, card, device)
        self.text_bias = TextBias.allocate(slots, device)
        self._noise: list[tuple[Tensor, ...]] = [()] * slots
        self.candidates = (1, 1)
        self._grain = 1 if device.type == "cpu" else 256
        for slot in range(slots):
            self.reset(slot, Sampling(), seed=slot)

    def reset(self, slot: int, sampling: Sampling, seed: int) -> None:
        """Begin a conversation in a slot."""
        self._generators[slot].manual_seed(seed)
        self.text_bias.reset(slot, sampling.pad_bias, sampling.repetition_penalty)
        text = self._text.set(slot, sampling.text_temperature, sampling.text_top_k)
        audio = self._audio.set(slot, sampling.audio_temperature, sampling.audio_top_k)
        self._noise[slot] = tuple(noise for noise in (text, audio) if noise.numel())
        self.candidates = (
            max(self.candidates[0], self._text.ranked(text.shape[1], self._grain)),
            max(self.candidates[1], self._audio.ranked(audio.shape[1], self._grain)),
        )

    def rows(self, count: int) -> "SlotSampler":
        """The first ``count`` slots of this sampler; settings and noise are shared."""
        part = copy(self)
        part._text, part._audio = self._text.rows(count), self._audio.rows(count)
        part.text_bias = self.text_bias.rows(count)
        return part

    def prepare(self, active: list[bool]) -> None:
        """Draw the noise of the next step for the active slots; the generators of the others stand still.

        A slot draws as many numbers as its own settings need, so nothing of its draws depends on other slots.
        """
        for buffers, taking_part, generator in zip(self._noise, active, self._generators, strict=False):
            if taking_part:
                for noise in buffers:
                    noise.exponential_(generator=generator)

    def text(self, logits: Tensor) -> Tensor:
        """Text token ``[B]`` of logits ``[B, text_card]``."""
        return self._text.draw(0, self.text_bias.apply(logits), self.candidates[0])

    def code(self, k: int, logits: Tensor) -> Tensor:
        """Code ``[B]`` of depth step k from logits ``[B, card]``."""
        return self._audio.draw(k, logits, self.candidates[1])
