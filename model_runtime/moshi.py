"""One step of Moshi: 80 ms of the caller in, 80 ms of speech and a text token out, for every slot at once.

Runs on the engine thread. No input or output, no clock; the only randomness is each slot's own seed.
"""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from model_runtime.layout import lay_out
from model_runtime.listener import ListenerSteps
from model_runtime.lm.delays import NOT_FORCED, UNGENERATED, TokenGrid
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.resume import History, begin
from model_runtime.sampling import Sampling, SlotSampler
from model_runtime.state import first_rows, reset_slot

__all__ = ["Moshi", "MoshiStep", "Sampling"]


@dataclass(frozen=True)
class MoshiStep:
    """What one step gave. Rows of slots that are not ready hold silence and ``UNGENERATED`` tokens."""

    audio: Tensor  # [B, 1, 1920] float32
    tokens: Tensor  # [B, 17] int64: text, 8 own codes, 8 user codes of one frame, delays undone
    ready: Tensor  # [B] bool: took part, and has audio
    row: Tensor  # [B, 17] int64: text and own codes that this step drew, user codes that it heard (lm/delays.py)
    caller: Tensor | None = None  # [B] int64: what the listener wrote, UNGENERATED in rows that took no part


class Moshi:
    """Mimi and the language model over ``slots`` conversations that begin, pause and end independently.

    A slot's first frame is not heard, as in the reference's server: in column 0 of the token grid every stream has its
    initial token, so the codes of frame 0 could never be read. The encoder therefore skips that frame and meets frame 1
    with its left padding. The first step also gives no audio (``ready`` is False): the own acoustic codes lag by one
    step. From then on each step n gives frame n: its text and semantic code were generated in step n - 1.

    Any token of a step can be forced instead of drawn, and the user's be given instead of encoded: that is how a
    prompt, a greeting or a sentence in mid-call is put in. A step whose user codes are given has no caller, so nobody
    listens either: it gives no audio, and both of the codec's ends stay as they are.

    A listener writes down what the caller says. It has no part in the conversation, whose tokens are the same without.
    """

    def __init__(
        self, mimi: Mimi, lm: LanguageModel, slots: int, pins: int = 0, listener: LanguageModel | None = None
    ) -> None:
        """``pins`` is how many first steps of a conversation can be kept in sight for ever (``Transformer.pin``).

        ``listener`` is a speech-to-text model (``dep_q`` 0). The codec must have as many codebooks as both need.
        """
        config = lm.config
        self.listener = None if listener is None else ListenerSteps(listener)
        heard = 0 if self.listener is None else self.listener.codebooks
        if mimi.codebooks != max(config.dep_q, config.n_q - config.dep_q, heard):
            raise ValueError(
                f"the codec has {mimi.codebooks} codebooks, the language model speaks {config.dep_q}"
                + (f" and the listener hears {heard}" if heard else "")
            )
        device = lm.text_emb.weight.device
        self.mimi = mimi.eval().requires_grad_(False)
        self.lm = lm.eval().requires_grad_(False)
        lay_out(self.mimi)
        lay_out(self.lm)
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # Mimi's codes are float32's; TF32 would flip some
        self.slots = slots
        self.device = device
        self.grid = TokenGrid(config, device)
        self.encoder_state = mimi.new_encoder_state(slots)
        self.decoder_state = mimi.new_decoder_state(slots)
        self.pins = min(pins, config.context // 2)
        self.lm_state = lm.new_state(slots, pins=self.pins)
        self.grid_state = self.grid.new_state(slots)
        self.listener_state = None if self.listener is None else self.listener.new_state(slots)
        self.sampler = SlotSampler(slots, config.text_card_generated, config.card, config.dep_q, device)

    def reset(self, slot: int, sampling: Sampling, seed: int) -> None:
        """Begin a new conversation in a slot; nothing of the one before remains."""
        for state in (self.encoder_state, self.decoder_state, self.lm_state, self.grid_state, self.listener_state):
            reset_slot(state, slot)
        self.sampler.reset(slot, sampling, seed)

    def resume(self, slot: int, history: History, sampling: Sampling, seed: int) -> None:
        """Begin a conversation in a slot as if it had made the steps of ``history`` (``resume.begin``)."""
        for _ in begin(self, slot, sampling, seed, history=history):
            pass

    def rows(self, count: int) -> "Moshi":
        """The first ``count`` slots as a model of their own, over the same weights and the same state."""
        part = copy(self)
        part.slots = count
        part.encoder_state = first_rows(self.encoder_state, count)
        part.decoder_state = first_rows(self.decoder_state, count)
        part.lm_state = first_rows(self.lm_state, count)
        part.grid_state = first_rows(self.grid_state, count)
        part.listener_state = first_rows(self.listener_state, count)
        part.sampler = self.sampler.rows(count)
        return part

    @torch.inference_mode()
    def step(self, audio: Tensor, mask: Tensor, forced: Tensor | None = None) -> MoshiStep:
        """Advance the slots where ``mask [B]`` holds by the caller's frame ``audio [B, 1, 1920]`` float32, -1 .. 1.

        ``forced [B, 17]`` int64 holds a row for each slot: tokens that are put in the place of drawn or heard ones, and
        ``NOT_FORCED`` elsewhere; of the user's codes all are given or none. The slots outside ``mask`` stay untouched,
        whatever stands in their rows. The host never waits for the device if ``mask`` is given on the CPU.
        """
        assert audio.shape == (self.slots, 1, self.mimi.frame_samples), audio.shape
        assert mask.shape == (self.slots,), mask.shape
        assert mask.dtype == torch.bool, mask.dtype
        self.prepare(mask.tolist())
        if forced is not None:
            assert forced.shape == (self.slots, self.lm.config.streams), forced.shape
            forced = forced.to(self.device, non_blocking=True)
        return self.advance(audio.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True), forced)

    def prepare(self, active: list[bool]) -> None:
        """Do the part of a step that belongs to the host: draw the noise of the active slots."""
        self.sampler.prepare(active)

    def advance(self, audio: Tensor, active: Tensor, forced: Tensor | None = None) -> MoshiStep:
        """Do the part of a step that belongs to the device, where its arguments lie already.

        Shapes and addresses are the same in every step, and the host never waits: it can be captured in a graph.
        """
        own = 1 + self.lm.config.dep_q
        hearing = active & (self.grid_state.offset > 0)
        given = None if forced is None else forced[:, own:]  # [B, 8]
        alone = None if given is None else given[:, 0] != NOT_FORCED  # [B]
        if alone is not None:
            hearing = hearing & ~alone
        codes = self.mimi.encode_step(audio, self.encoder_state, hearing)  # [B, codebooks]
        codes = torch.where(hearing[:, None], codes, UNGENERATED)
        user = _choose(given, codes[:, : self.lm.config.n_q - own + 1])  # [B, 8]
        self.grid.hear(self.grid_state, user, active)
        column = self.grid.inputs(self.grid_state, active)  # [B, 17]
        hidden, text_logits = self.lm.step(column, self.lm_state, active)
        text = _choose(None if forced is None else forced[:, 0], self.sampler.text(text_logits))  # [B]

        def code(k: int, logits: Tensor) -> Tensor:
            return _choose(None if forced is None else forced[:, 1 + k], self.sampler.code(k, logits))

        self.sampler.text_bias.note(text, active)
        said = self.lm.generate_codes(hidden, text, code)  # [B, 8]
        tokens, ready = self.grid.say(self.grid_state, text, said, active)
        if alone is not None:
            ready = ready & ~alone
            tokens = torch.where(ready[:, None], tokens, UNGENERATED)
        speech = self.mimi.decode_step(tokens[:, 1:own].clamp(min=0), self.decoder_state, ready)  # [B, 1, 1920]
        row = torch.where(active[:, None], torch.cat([text[:, None], said, user], dim=1), UNGENERATED)
        speech = torch.where(ready[:, None, None], speech, 0.0)
        return MoshiStep(speech, tokens, ready, row, self._listen(codes, active))

    def _listen(self, codes: Tensor, active: Tensor) -> Tensor | None:
        """What the listener writes ``[B]`` after ``codes [B, codebooks]``."""
        if self.listener is None or self.listener_state is None:
            return None
        return self.listener.step(codes[:, : self.listener.codebooks], self.listener_state, active)


def _choose(forced: Tensor | None, drawn: Tensor) -> Tensor:
    """The forced tokens where there are some, else the drawn ones."""
    return drawn if forced is None else torch.where(forced == NOT_FORCED, drawn, forced)
