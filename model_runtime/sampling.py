"""How tokens are drawn: temperature, top-k, and randomness that belongs to the slot. Runs on the engine thread.

A token is drawn by an exponential race: the candidate with the greatest p / E, E ~ Exp(1), wins with probability p.
Each slot draws its E's from a generator of its own, so a seed reproduces a call whoever else is in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How one conversation's tokens are drawn; a temperature of 0 takes the likeliest token."""

    audio_temperature: float = 0.8
    audio_top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25


GREEDY = Sampling(audio_temperature=0.0, text_temperature=0.0)


def draw(logits: Tensor, temperature: Tensor, top_k: Tensor, noise: Tensor) -> Tensor:
    """One token ``[B]`` per row of ``logits [B, V]`` float32.

    ``temperature [B]`` and ``top_k [B]`` are per row; ``noise [B, V]`` is exponential with rate 1. Exactly ``top_k``
    candidates race, however many tie.
    """
    ranked, tokens = logits.sort(dim=-1, descending=True)
    greedy = temperature <= 0
    score = ranked / torch.where(greedy, 1.0, temperature)[:, None] - noise.log()
    out = torch.arange(logits.shape[-1], device=logits.device) >= top_k[:, None]
    winner = score.masked_fill_(out, float("-inf")).argmax(-1, keepdim=True)
    return torch.where(greedy, logits.argmax(-1), tokens.gather(1, winner).squeeze(1))


class SlotSampler:
    """The sampling settings, the generators and the step's noise of every slot."""

    def __init__(self, slots: int, text_card: int, card: int, dep_q: int, device: torch.device) -> None:
        self._text_card = text_card
        self._card = card
        self._generators = [torch.Generator(device) for _ in range(slots)]
        self._noise = torch.ones(slots, text_card + dep_q * card, device=device)
        self._text_temperature = torch.ones(slots, device=device)
        self._text_top_k = torch.ones(slots, device=device, dtype=torch.long)
        self._audio_temperature = torch.ones(slots, device=device)
        self._audio_top_k = torch.ones(slots, device=device, dtype=torch.long)
        for slot in range(slots):
            self.reset(slot, Sampling(), seed=slot)

    def reset(self, slot: int, sampling: Sampling, seed: int) -> None:
        """Begin a conversation in a slot."""
        self._generators[slot].manual_seed(seed)
        self._text_temperature[slot] = sampling.text_temperature
        self._text_top_k[slot] = sampling.text_top_k
        self._audio_temperature[slot] = sampling.audio_temperature
        self._audio_top_k[slot] = sampling.audio_top_k

    def prepare(self, active: list[bool]) -> None:
        """Draw the noise of the next step for the active slots; the generators of the others stand still."""
        for noise, taking_part, generator in zip(self._noise, active, self._generators, strict=True):
            if taking_part:
                noise.exponential_(generator=generator)

    def text(self, logits: Tensor) -> Tensor:
        """Text token ``[B]`` of logits ``[B, text_card]``."""
        return draw(logits, self._text_temperature, self._text_top_k, self._noise[:, : self._text_card])

    def code(self, k: int, logits: Tensor) -> Tensor:
        """Code ``[B]`` of depth step k from logits ``[B, card]``."""
        first = self._text_card + k * self._card
        return draw(logits, self._audio_temperature, self._audio_top_k, self._noise[:, first : first + self._card])
