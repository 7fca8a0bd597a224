"""A model that does exactly what a test says: it knows every right answer and hears callers by their loudness.

    python -m tests.agent.evaluation.scripted PORT

serves it as a model worker, which gives one answer to everything. Unrealistic in that: it understands nothing, and
takes whatever is loud for the next thing that was planned.
"""

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.evaluation.plan import Plan
from agent.measures.speech import levels
from config.audio import FRAME_SAMPLES
from config.schema import ModelSettings
from model_runtime.engine.model import Beginning, Samples, SamplingOptions, StepOutput
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.speech import Speech, agent_speech
from model_runtime.worker import serve

LOUD_DB = -45.0
ANSWER = "We are open from eight in the morning to six in the evening."
"""To callers of whom nothing was planned."""
_SPOKEN: dict[str, dict[str, Speech]] = {}
"""By world, for it takes a second."""


@dataclass(frozen=True)
class Manners:
    """How it behaves."""

    greets_at: int | None = 6
    """The frame of its greeting."""
    answers: bool = True
    waits: int = 5
    """Quiet frames after which the caller has ended; a negative number: it answers so long after the caller began."""
    stops_after: int | None = 3
    """Frames of the caller's voice after which it stops speaking; None: it never does."""
    says: Mapping[str, str] = field(default_factory=dict)
    """Other texts than the right ones."""
    stutters: bool = False
    """It says its second word twice (in its text)."""
    hears_itself: bool = False
    """It takes everything above -60 dBFS for speech, so an echo too."""


class _Row:
    def __init__(self, replies: Sequence[str]) -> None:
        self.replies = deque(replies)
        self.frame = 0
        self.loud = self.quiet = 0
        self.asked = False
        self.audio = np.zeros(0, np.int16)
        self.words: list[tuple[int, str]] = []


class ScriptedModel:
    """The engine's model."""

    caller_text_delay_s = 0.0

    def __init__(self, world: World, slots: int, plans: Sequence[Plan], manners: Manners) -> None:
        self.slots = slots
        self._world, self._manners = world, manners
        if world.name not in _SPOKEN:
            _SPOKEN[world.name] = agent_speech(world)
        self._speech = _SPOKEN[world.name]
        self._replies = {
            plan.seed: [cue.reply for cue in plan.cues if cue.is_turn and cue.reply is not None] for plan in plans
        }
        self._rows = [_Row([]) for _ in range(slots)]
        self.steps = 0

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Begin a conversation of the plan that has this seed."""
        self._rows[slot] = _Row(self._replies.get(seed, [ANSWER] * 9))

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """The same; it has no prompts."""
        self.reset(slot, sampling, seed)
        yield

    def force(self, slot: int, text: str) -> None:
        """Not in use."""
        raise AssertionError("nothing is forced here")

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Hear and say 80 ms."""
        self.steps += 1
        said, text = np.zeros_like(audio), [""] * self.slots
        for slot in np.flatnonzero(mask):
            said[slot], text[slot] = self._advance(self._rows[slot], audio[slot])
        rows = self.slots
        return StepOutput(said, text, np.zeros((rows, 0), np.int64), np.zeros(rows, np.bool_), [""] * rows)

    def _advance(self, row: _Row, heard: Samples) -> tuple[Samples, str]:
        manners = self._manners
        if row.frame == manners.greets_at:
            self._say(row, self._world.greeting)
        loud = max(levels(heard)) > (-60.0 if manners.hears_itself else LOUD_DB)
        row.loud, row.quiet = (row.loud + 1, 0) if loud else (row.loud, row.quiet + 1)
        if loud and manners.stops_after is not None and row.loud == manners.stops_after:
            row.audio, row.words = row.audio[:0], []
        ready = row.loud == -manners.waits if manners.waits < 0 else row.loud > 0 and row.quiet == manners.waits
        if ready and manners.answers and row.replies:
            self._say(row, row.replies.popleft())
        if row.quiet >= 5:
            row.loud = 0
        frame = np.zeros(FRAME_SAMPLES, np.int16)
        frame[: len(row.audio[:FRAME_SAMPLES])] = row.audio[:FRAME_SAMPLES]
        row.audio = row.audio[FRAME_SAMPLES:]
        now = [word for at, word in row.words if at == row.frame]
        row.frame += 1
        return frame, "".join(f" {word}" for word in now)

    def _say(self, row: _Row, text: str) -> None:
        text = self._manners.says.get(text, text)
        speech = self._speech[text]
        row.audio = np.round(speech.audio * 32_767).astype(np.int16)
        row.words = []
        for word in speech.words:  # a step has one text token
            after = row.words[-1][0] + 1 if row.words else 0
            row.words.append((max(after, row.frame + int(word.start / 0.08)), word.text))
        if self._manners.stutters:
            row.words = [*row.words[:2], *((at + 1, word) for at, word in row.words[1:])]


def _main(port: str) -> None:
    settings = ModelSettings.model_validate({"kind": "moshi", "checkpoint": "random:tiny", "slots": 4})
    serve.load_model = lambda of: ScriptedModel(World.load(), of.slots, [], Manners())
    serve.serve_worker("scripted", settings, listen=("127.0.0.1", int(port)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
