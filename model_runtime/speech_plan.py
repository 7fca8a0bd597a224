"""When to say which piece of a text: the inner monologue of a sentence that is put into Moshi's mouth. Pure.

The model was trained on text that stands where it is spoken: a word's pieces in consecutive steps from its start on,
PAD until the next word, and EPAD in the last step before that (arXiv 2410.00037, section 3.4.4). So a plan gives each
word the time that it takes to say at about 160 words a minute, and pauses after punctuation.
"""

from collections import deque
from typing import Final

from model_runtime.lm.delays import NOT_FORCED
from model_runtime.text import EPAD, PAD, TextTokenizer

_STEPS_PER_CHARACTER: Final = 0.78
"""160 words a minute of five letters and a space, at 12.5 steps a second."""
_PAUSES: Final = {",": 3, ";": 4, ":": 4, ".": 6, "!": 6, "?": 6}
"""Steps of silence after a word that ends so."""
_MOST_PATIENCE: Final = 25
"""Steps that a text waits for the model to end its own word: two seconds."""


def plan_speech(text: str, tokenizer: TextTokenizer) -> list[int]:
    """The text token of each step in which ``text`` is spoken; empty for a text without words."""
    plan: list[int] = []
    for word in text.split():
        pieces = tokenizer.encode(word)
        if not pieces:
            continue
        if not plan:
            plan = [EPAD]
        elif plan[-1] == PAD:  # a word without room after it runs into the next, as in the training data
            plan[-1] = EPAD
        spoken = max(len(pieces), round((len(word) + 1) * _STEPS_PER_CHARACTER))
        plan += pieces + [PAD] * (spoken - len(pieces) + _PAUSES.get(word[-1], 0))
    return plan


class Script:
    """What one slot is to say, and how far it has come."""

    def __init__(self, plan: list[int] | None = None) -> None:
        """``plan`` is said from the next step on."""
        self._due = deque(plan or ())
        self._waiting: deque[list[int]] = deque()
        self._waited = 0

    def add(self, plan: list[int]) -> None:
        """Say ``plan`` as soon as what is due before it is said and the model is between two words."""
        self._waiting.append(plan)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to say."""
        return not self._due and not self._waiting

    def next_token(self, previous: int) -> int:
        """The text token of the next step, or ``NOT_FORCED``; ``previous`` is the one of the step before."""
        if not self._due and self._waiting:
            self._waited += 1
            if previous in (PAD, EPAD) or self._waited > _MOST_PATIENCE:
                self._due.extend(self._waiting.popleft())
                self._waited = 0
        return self._due.popleft() if self._due else NOT_FORCED
