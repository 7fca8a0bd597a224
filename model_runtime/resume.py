"""Beginning a conversation in its midst: after a prompt, after a history, or after both. Runs on the engine thread.

All that a slot remembers follows from the rows of its steps (lm/delays.py), so it is taken in instead of lived
through: the temporal transformer sees them in a few parallel passes, the codec the last ten seconds. The work comes in
pieces, so that the steps of other slots lie between. What equals the uninterrupted conversation, up to rounding:

- the temporal transformer and the token grid, if the history is whole, or reaches back ``layers * (context - 1)``
  steps, which is as far as the newest step depends on anything;
- the codec, if the conversation is not longer than ten seconds; else its convolutions and the first layer of its
  transformers. Without the caller's audio the encoder hears what his codes decode to, which is near, not equal.

The random numbers are others: a resumed conversation draws with a fresh seed, and is the same only where it is greedy.
A listener (listener.py) begins anew: its codes are not in the history, and it needs no past to write down what comes.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from model_runtime.lm.language_model import LanguageModelState
from model_runtime.sampling import Sampling
from model_runtime.state import copy_slot

if TYPE_CHECKING:
    from model_runtime.mimi.codec import Mimi
    from model_runtime.moshi import Moshi
    from model_runtime.prompts import Prompt

CODEC_FRAMES: Final = 125
"""What Mimi's attention spans: ten seconds."""
_STEPS_AT_ONCE: Final = 256
_FRAMES_AT_ONCE: Final = 25


@dataclass(frozen=True)
class History:
    """The last steps of a conversation, the newest last."""

    steps: int
    """Steps done in all, of which ``rows`` may be the last ones only."""
    rows: Tensor  # [T, 17] int64, on the CPU
    heard: Tensor  # [W, 1920] float32: the caller's last frames, or none


@dataclass(frozen=True)
class PreparedPrompt:
    """What the temporal transformer remembers of a prompt, to be copied into slots."""

    prompt: "Prompt"
    state: LanguageModelState  # of one slot, with room for the prompt alone

    @property
    def memory(self) -> int:
        """Bytes on the device."""
        return sum(ring.nbytes for ring in self.state.transformer.rings)


@torch.inference_mode()
def prepare_prompt(moshi: "Moshi", prompt: "Prompt") -> Generator[None, None, PreparedPrompt]:
    """Compute a prompt's state, a piece of work per item, and return it."""
    state = moshi.lm.new_state(1, ring=len(prompt.rows))
    columns = moshi.grid.read_columns(prompt.rows.to(moshi.device), 0)
    yield from _prefill(moshi, state, 0, columns, 0, prompt.embeddings)
    return PreparedPrompt(prompt, state)


@torch.inference_mode()
def begin(
    moshi: "Moshi",
    slot: int,
    sampling: Sampling,
    seed: int,
    *,
    prompt: PreparedPrompt | None = None,
    history: History | None = None,
) -> Iterator[None]:
    """Begin a conversation after ``prompt`` and ``history`` (whose steps do not count the prompt's), in pieces.

    The slot must not be stepped before the last piece is done. Up to ``moshi.pins`` steps of the prompt are pinned.
    """
    moshi.reset(slot, sampling, seed)
    before = 0 if prompt is None else len(prompt.prompt.rows)
    rows = torch.empty(0, moshi.lm.config.streams, dtype=torch.long)
    if prompt is not None:
        rows = prompt.prompt.rows
        state = moshi.lm_state.transformer
        for ring, target in zip(prompt.state.transformer.rings, state.rings, strict=True):
            copy_slot(ring, 0, target, slot)
        for there, convolved in zip(moshi.lm_state.user, prompt.state.user, strict=True):
            there[slot] = convolved[0]
        state.offset[slot] = before
        if moshi.pins:
            moshi.lm.transformer.pin(state, slot, min(before, moshi.pins))
    steps = before
    if history is not None:
        steps += history.steps
        first = steps - len(history.rows)
        whole = first == before
        rows = torch.cat([rows[-moshi.grid.lag :], history.rows]) if whole else history.rows
        first -= len(rows) - len(history.rows)
        columns = moshi.grid.read_columns(rows.to(moshi.device), first)
        position = steps - len(columns)
        if not whole:
            moshi.lm.transformer.start_at(moshi.lm_state.transformer, slot, position)
        yield from _prefill(moshi, moshi.lm_state, slot, columns, position)
        silent = 1 if before else moshi.grid.max_delay  # steps that gave no audio
        yield from _restore_codec(moshi, slot, rows, history, history.steps - silent)
        moshi.sampler.text_bias.recall(slot, history.rows[:, 0])
    moshi.grid.restore(moshi.grid_state, slot, rows.to(moshi.device), steps)


def _prefill(
    moshi: "Moshi",
    state: LanguageModelState,
    slot: int,
    columns: Tensor,
    position: int,
    embeddings: Tensor | None = None,
) -> Iterator[None]:
    """Take in what the steps from ``position`` on read, ``columns [T, K]``, the first M as ``embeddings [M, dim]``."""
    at_once = min(_STEPS_AT_ONCE, state.transformer.rings[0].capacity)
    for first in range(0, len(columns), at_once):
        inputs = moshi.lm.embed(columns[first : first + at_once], state, slot)
        if embeddings is not None and first < len(embeddings):
            given = embeddings[first : first + at_once]
            inputs = torch.cat([given.to(inputs), inputs[len(given) :]])
        moshi.lm.prefill(inputs, state, slot, position + first)
        yield


def _restore_codec(moshi: "Moshi", slot: int, rows: Tensor, history: History, emitted: int) -> Iterator[None]:
    """Let the codec hear and say its last ten seconds again; ``emitted`` frames were said in all."""
    own, device = 1 + moshi.lm.config.dep_q, moshi.device
    mimi, everyone = moshi.mimi, torch.ones(1, device=device, dtype=torch.bool)
    decoder = mimi.new_decoder_state(1)
    said = _aligned(moshi, rows)  # [F, 8]
    for part in _parts(mimi, said[len(said) - max(0, min(emitted, CODEC_FRAMES)) :].to(device)):
        mimi.decode_frames(part.T[None], decoder, everyone)
        yield
    copy_slot(decoder, 0, moshi.decoder_state, slot)

    frames = min(history.steps - 1, CODEC_FRAMES)  # the first is not heard
    if frames <= 0:
        return
    encoder = mimi.new_encoder_state(1)
    if len(history.heard):
        heard = history.heard[-frames:].to(device)
    else:
        codes = rows[-frames:, own:].to(device).clamp(min=0)
        heard = mimi.decode(codes.T[None]).view(-1, mimi.frame_samples)
    for part in _parts(mimi, heard):
        mimi.encode_frames(part.reshape(1, 1, -1), encoder, everyone)
        yield
    copy_slot(encoder, 0, moshi.encoder_state, slot)


def _parts(mimi: "Mimi", frames: Tensor) -> Iterator[Tensor]:
    """``frames [F, ...]`` in as large parts as give what one frame after the other gives: once a ring is full, one."""
    at_once = _FRAMES_AT_ONCE if 2 * len(frames) <= mimi.config.context else 1
    return (frames[first : first + at_once] for first in range(0, len(frames), at_once))


def _aligned(moshi: "Moshi", rows: Tensor) -> Tensor:
    """The own codes ``[F, dep_q]`` of the frames that ``rows [T, K]`` complete, delays undone."""
    delays = moshi.lm.config.delays[1 : 1 + moshi.lm.config.dep_q]
    latest = max(moshi.lm.config.delays)
    frames = max(0, len(rows) - latest)
    return torch.stack([rows[d : d + frames, 1 + k] for k, d in enumerate(delays)], dim=1)
