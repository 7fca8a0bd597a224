"""One step of Moshi: 80 ms of the caller in, 80 ms of speech and a text token out, for every slot at once.

Runs on the engine thread. No input or output, no clock; the only randomness is each slot's own seed.
"""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from model_runtime.lm.delays import TokenGrid
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.sampling import Sampling, SlotSampler
from model_runtime.state import first_rows, reset_slot

__all__ = ["Moshi", "MoshiStep", "Sampling"]


@dataclass(frozen=True)
class MoshiStep:
    """What one step gave. Rows of slots that are not ready hold silence and ``UNGENERATED`` tokens."""

    audio: Tensor  # [B, 1, 1920] float32
    tokens: Tensor  # [B, 17] int64: text, 8 own codes, 8 user codes of one frame, delays undone
    ready: Tensor  # [B] bool: took part, and has audio


class Moshi:
    """Mimi and the language model over ``slots`` conversations that begin, pause and end independently.

    A slot's first frame is not heard, as in the reference's server: in column 0 of the token grid every stream has its
    initial token, so the codes of frame 0 could never be read. The encoder therefore skips that frame and meets frame 1
    with its left padding. The first step also gives no audio (``ready`` is False): the own acoustic codes lag by one
    step. From then on each step n gives frame n: its text and semantic code were generated in step n - 1.
    """

    def __init__(self, mimi: Mimi, lm: LanguageModel, slots: int) -> None:
        config = lm.config
        if mimi.codebooks != max(config.dep_q, config.n_q - config.dep_q):
            raise ValueError(f"the codec has {mimi.codebooks} codebooks, the language model speaks {config.dep_q}")
        device = lm.text_emb.weight.device
        self.mimi = mimi.eval().requires_grad_(False)
        self.lm = lm.eval().requires_grad_(False)
        self.slots = slots
        self.device = device
        self.grid = TokenGrid(config, device)
        self.encoder_state = mimi.new_encoder_state(slots)
        self.decoder_state = mimi.new_decoder_state(slots)
        self.lm_state = lm.new_state(slots)
        self.grid_state = self.grid.new_state(slots)
        self.sampler = SlotSampler(slots, config.text_card, config.card, config.dep_q, device)

    def reset(self, slot: int, sampling: Sampling, seed: int) -> None:
        """Begin a new conversation in a slot; nothing of the one before remains."""
        for state in (self.encoder_state, self.decoder_state, self.lm_state, self.grid_state):
            reset_slot(state, slot)
        self.sampler.reset(slot, sampling, seed)

    def rows(self, count: int) -> "Moshi":
        """The first ``count`` slots as a model of their own, over the same weights and the same state."""
        part = copy(self)
        part.slots = count
        part.encoder_state = first_rows(self.encoder_state, count)
        part.decoder_state = first_rows(self.decoder_state, count)
        part.lm_state = first_rows(self.lm_state, count)
        part.grid_state = first_rows(self.grid_state, count)
        part.sampler = self.sampler.rows(count)
        return part

    @torch.inference_mode()
    def step(self, audio: Tensor, mask: Tensor) -> MoshiStep:
        """Advance the slots where ``mask [B]`` holds by the caller's frame ``audio [B, 1, 1920]`` float32, -1 .. 1.

        The other slots stay untouched, whatever stands in their rows. The host never waits for the device if ``mask``
        is given on the CPU.
        """
        assert audio.shape == (self.slots, 1, self.mimi.frame_samples), audio.shape
        assert mask.shape == (self.slots,), mask.shape
        assert mask.dtype == torch.bool, mask.dtype
        self.prepare(mask.tolist())
        return self.advance(audio.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True))

    def prepare(self, active: list[bool]) -> None:
        """Do the part of a step that belongs to the host: draw the noise of the active slots."""
        self.sampler.prepare(active)

    def advance(self, audio: Tensor, active: Tensor) -> MoshiStep:
        """Do the part of a step that belongs to the device, where ``audio`` and ``active [B]`` lie already.

        Shapes and addresses are the same in every step, and the host never waits: it can be captured in a graph.
        """
        begun = active & (self.grid_state.offset > 0)
        user = self.mimi.encode_step(audio, self.encoder_state, begun)  # [B, 8]
        self.grid.hear(self.grid_state, user[:, : self.lm.config.n_q - self.lm.config.dep_q], active)
        column = self.grid.inputs(self.grid_state, active)  # [B, 17]
        hidden, text_logits = self.lm.step(column, self.lm_state, active)
        text = self.sampler.text(text_logits)  # [B]
        own = self.lm.generate_codes(hidden, text, self.sampler.code)  # [B, 8]
        tokens, ready = self.grid.say(self.grid_state, text, own, active)
        codes = tokens[:, 1 : 1 + self.lm.config.dep_q].clamp(min=0)
        speech = self.mimi.decode_step(codes, self.decoder_state, ready)  # [B, 1, 1920]
        return MoshiStep(torch.where(ready[:, None, None], speech, 0.0), tokens, ready)
