"""The caller's words: a speech-to-text model beside the conversation, on the codes that it hears. On the engine thread.

Kyutai's speech-to-text is a language model without own codes (``dep_q`` 0). It writes one text token per frame, some
frames after the word was spoken, and reads more codebooks of the same codec than Moshi does: those are nested, so one
encoding serves both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model_runtime.layout import lay_out
from model_runtime.lm.delays import UNGENERATED, GridState, TokenGrid
from model_runtime.lm.language_model import LanguageModel, LanguageModelState
from model_runtime.text import TextTokenizer


@dataclass(frozen=True)
class Listener:
    """A speech-to-text checkpoint."""

    lm: LanguageModel
    tokenizer: TextTokenizer
    delay_s: float
    """By so much its text lags the audio in which it was spoken, s."""


@dataclass
class ListenerState:
    """What the listening model remembers of each slot."""

    lm: LanguageModelState
    grid: GridState


class ListenerSteps:
    """Steps a listening model along with a conversation's steps. Its text is greedy, so it has no seed.

    It is stepped from a slot's first step on, whose frame nobody hears (see ``Moshi``): column 0 of its grid is made of
    initial tokens. So in step t it reads frame t and the text token of step t - 1.
    """

    def __init__(self, lm: LanguageModel) -> None:
        """Raises ``ValueError`` where the model does more than listen."""
        if lm.config.dep_q:
            raise ValueError(f"a listening model has no own codes, this one has {lm.config.dep_q}")
        self.lm = lm.eval().requires_grad_(False)
        lay_out(self.lm)
        self._grid = TokenGrid(lm.config, lm.text_emb.weight.device)

    @property
    def codebooks(self) -> int:
        """How many of the codec's codebooks it reads."""
        return self.lm.config.n_q

    def new_state(self, slots: int) -> ListenerState:
        """Fresh state for so many slots."""
        return ListenerState(self.lm.new_state(slots), self._grid.new_state(slots))

    def step(self, codes: Tensor, state: ListenerState, mask: Tensor) -> Tensor:
        """The text token ``[B]`` after a frame's ``codes [B, n_q]``; ``UNGENERATED`` in slots outside ``mask [B]``.

        Codes of ``UNGENERATED`` were not heard, and add nothing. The state of slots outside ``mask`` stays as it is.
        """
        self._grid.hear(state.grid, codes, mask)
        _, logits = self.lm.step(self._grid.inputs(state.grid, mask), state.lm, mask)
        text = logits.argmax(-1)
        self._grid.say(state.grid, text, text.new_empty(len(text), 0), mask)
        return torch.where(mask, text, UNGENERATED)
