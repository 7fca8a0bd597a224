"""When to say which piece of a text: the inner monologue of a sentence that is put into Moshi's mouth. Pure.

The model was trained on text that stands where it is spoken: a word's pieces in consecutive steps from its start on,
PAD until the next word, and EPAD in the last step before that (arXiv 2410.00037, section 3.4.4). So a plan gives each
word the time that it takes to say at about 160 words a minute, and pauses after punctuation. Where there is a recording
of the words, it has given them their time already: the codes of it are forced too, so that the model takes itself to
have said them, and the words are spread over its length.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from model_runtime.lm.delays import NOT_FORCED
from model_runtime.text import EPAD, PAD, TextTokenizer

_STEPS_PER_CHARACTER: Final = 0.78
"""160 words a minute of five letters and a space, at 12.5 steps a second."""
_PAUSES: Final = {",": 3, ";": 4, ":": 4, ".": 6, "!": 6, "?": 6}
"""Steps of silence after a word that ends so."""
_MOST_PATIENCE: Final = 25
"""Steps that a text waits for the model to end its own word: two seconds."""

Row = tuple[int, ...]
"""What is forced in a step: its text token and, in a recording, its own codes; ``NOT_FORCED`` where it is free."""
_WAITING: Final[Row] = (PAD,)


def plan_speech(text: str, tokenizer: TextTokenizer) -> list[Row]:
    """The steps in which ``text`` is spoken, their text tokens alone; empty for a text without words."""
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
    return [(token,) for token in plan]


def plan_recording(
    text: str, tokenizer: TextTokenizer, frames: Sequence[Sequence[int]], delays: Sequence[int]
) -> list[Row]:
    """The steps in which a recording with the codes ``frames [F][dep_q]`` is spoken, whose words are ``text``.

    ``delays`` are those of the text and of the own codes: stream k of frame f stands in step f + delay_k, so the last
    steps have late streams alone. PAD is between words, and everywhere where there are none; a text with more pieces
    than there are frames runs on behind the recording.
    """
    spread = _spread(text, tokenizer, len(frames))
    streams = [spread, *zip(*frames, strict=True)]
    assert len(streams) == len(delays), (len(streams), len(delays))
    rows: list[list[int]] = []
    for k, (tokens, delay) in enumerate(zip(streams, delays, strict=True)):
        for step, token in enumerate(tokens, delay):
            while len(rows) <= step:
                rows.append([NOT_FORCED] * len(delays))
            rows[step][k] = token
    return [tuple(row) for row in rows]


def find_start(plan: Sequence[Row], rows: Sequence[Sequence[int]], steps: int) -> int:
    """The step in which ``plan``, the first thing said, was begun, ``steps`` where that is the next one.

    ``rows [T][K]`` are the tokens of the last of so many steps. What went before the plan was a wait, so all of it has
    PAD for text. The text tells the plan; its codes do only where there is no text, since another machine may round
    some of them otherwise. 0 where nothing fits, and where the beginning is too long ago to be told.
    """
    first = steps - len(rows)
    width = 1 if any(row[0] not in (PAD, NOT_FORCED) for row in plan) else None
    latest = next((step for step, row in enumerate(rows, first) if row[0] != PAD), steps)

    def fits(start: int) -> bool:
        overlap = range(max(start, first), min(start + len(plan), steps))
        return all(_fits(plan[step - start][:width], rows[step - first]) for step in overlap)

    return next((start for start in range(latest + 1) if fits(start)), 0)


def _fits(row: Row, tokens: Sequence[int]) -> bool:
    return all(wanted in (NOT_FORCED, token) for wanted, token in zip(row, tokens, strict=False))


def _spread(text: str, tokenizer: TextTokenizer, steps: int) -> list[int]:
    """The text token of each of so many steps, words placed in proportion to their lengths; more where they must be."""
    words = [(len(word) + 1, pieces) for word in text.split() if (pieces := tokenizer.encode(word))]
    length, left = sum(length for length, _ in words), sum(len(pieces) for _, pieces in words)
    plan: list[int] = []
    before = 0
    for word, pieces in words:
        due = 1 + round((steps - 1) * before / length)  # the first word is announced in the first step
        silence = min(due, steps - left) - len(plan)
        if silence > 0:
            plan += [PAD] * (silence - 1) + [EPAD]
        plan += pieces
        before, left = before + word, left - len(pieces)
    return plan + [PAD] * (steps - len(plan))


class Script:
    """What one slot is to say, and how far it has come."""

    def __init__(self, plan: Sequence[Row] = (), *, held: bool = False) -> None:
        """``plan`` is said from the next step on; if it is ``held``, from the first ``add`` on, and PAD until then."""
        self._due = deque(plan)
        self._waiting: deque[Sequence[Row]] = deque()
        self._waited = 0
        self._held = held

    def add(self, plan: Sequence[Row]) -> None:
        """Say ``plan`` as soon as what is due before it is said and the model is between two words.

        An empty one says nothing, but lets go what is held.
        """
        self._held = False
        if plan:
            self._waiting.append(plan)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to say or to hold."""
        return not (self._held or self._due or self._waiting)

    def next_row(self, previous: int) -> tuple[Row, bool]:
        """What is forced in the next step, and whether there is a text to say; ``previous`` is the last text token.

        The row is empty where the model is free, also while a text waits for it to end its word.
        """
        if self._held:
            return _WAITING, False
        if not self._due and self._waiting:
            self._waited += 1
            if previous in (PAD, EPAD) or self._waited > _MOST_PATIENCE:
                self._due.extend(self._waiting.popleft())
                self._waited = 0
        return (self._due.popleft(), True) if self._due else ((), bool(self._waiting))
