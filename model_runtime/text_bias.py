"""What is done to text logits before a token is drawn: a bias for PAD, a penalty for repetition. On the engine thread.

Both are settings of the slot. The penalty is that of CTRL (arXiv 1909.05858, section 4.1), as transformers has it: the
logit of a token that the slot has said lately is divided by the penalty where it is positive, and multiplied with it
where it is not. PAD and EPAD say nothing, so they are never penalised.
"""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from model_runtime.state import first_rows, reset_slot, write_where
from model_runtime.text import EPAD, PAD

RECENT: Final = 64
"""Steps whose text tokens count as said lately: five seconds."""


@dataclass
class TextBias:
    """The settings of every slot and what it said lately; a state as in ``model_runtime.state``."""

    pad_bias: Tensor  # [B] float32
    penalty: Tensor  # [B] float32
    recent: Tensor  # [B, RECENT] int64: the text tokens of the last steps, the newest last; EPAD before the first one

    @classmethod
    def allocate(cls, slots: int, device: torch.device) -> Self:
        """Of so many slots, in which nothing has been said and nothing is changed."""
        return cls(
            torch.zeros(slots, device=device),
            torch.ones(slots, device=device),
            torch.full((slots, RECENT), EPAD, device=device),
        )

    def rows(self, count: int) -> "TextBias":
        """Of the first ``count`` slots, over the same memory."""
        return first_rows(self, count)

    def reset(self, slot: int, pad_bias: float, penalty: float) -> None:
        """Begin a conversation in a slot."""
        reset_slot(self, slot)
        self.pad_bias[slot] = pad_bias
        self.penalty[slot] = penalty

    def recall(self, slot: int, said: Tensor) -> None:
        """Put a slot where it is after steps with the text tokens ``said [T]``."""
        said = said[-RECENT:].to(self.recent)
        self.recent[slot, RECENT - len(said) :] = said

    def apply(self, logits: Tensor) -> Tensor:
        """Changed ``logits [B, V]`` float32, those of a slot without settings to the bit as they were."""
        index = torch.where(self.recent < logits.shape[1], self.recent, EPAD)  # a forced token may be none of V
        seen = logits.gather(1, index)  # [B, RECENT]
        penalty = self.penalty[:, None]
        weaker = torch.where(seen > 0, seen / penalty, seen * penalty)
        silent = (index == EPAD) | (index == PAD)
        changed = logits.scatter(1, index, torch.where(silent, seen, weaker))
        changed[:, PAD] += self.pad_bias
        return changed

    def note(self, text: Tensor, mask: Tensor) -> None:
        """Note the text tokens ``text [B]`` of a step, drawn or forced, for the slots in ``mask [B]``."""
        write_where(self.recent, torch.cat([self.recent[:, 1:], text[:, None]], dim=1), mask)
