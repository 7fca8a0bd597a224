"""One simulated call while it is held, and what is kept of it for the judge. Pure; a line moves its frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from agent.evaluation.caller import Caller, Done
from agent.evaluation.ear import Word
from agent.evaluation.plan import Plan
from agent.evaluation.replies import Replies
from agent.evaluation.schema import LineSettings, Suite
from agent.evaluation.surroundings import Surroundings
from config.audio import FRAME_S, SAMPLE_RATE
from telephony.call import Frame


@dataclass
class Held:
    """A call that is over. Seconds are the caller's clock: 0 is when the call was up."""

    plan: Plan
    done: list[Done]
    agent: Frame
    """``int16 [n]`` at 24 kHz: what the caller heard."""
    caller: Frame
    """``int16 [n]`` at 24 kHz: what the caller's telephone sent."""
    words: list[Word]
    """The agent's, from its text stream."""
    hung_up_s: float | None = None
    """When the agent ended the call."""
    fault: str = ""
    """Why there was no call, or no transcript of it."""
    call: str = ""
    """The call's id at the gateway."""

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return len(self.agent) / SAMPLE_RATE


Told = Callable[[Held], None]


class Line(Protocol):
    """Where calls are held."""

    def hold(self, plans: Iterable[Plan], suite: Suite, told: Told) -> None:
        """Hold the calls of these callers, and tell of each as it is over."""


@dataclass
class Talk:
    """A call that is being held: a caller, its surroundings, and what is kept."""

    plan: Plan
    caller: Caller
    surroundings: Surroundings
    _sent: list[Frame] = field(default_factory=list)
    _heard: list[Frame] = field(default_factory=list)

    @classmethod
    def begin(cls, plan: Plan, suite: Suite, replies: Replies) -> "Talk":
        """The beginning of a call."""
        caller = Caller(plan, replies, reply_within_s=suite.reply_within_s, listen_s=suite.listen_s, max_s=suite.max_s)
        return cls(plan, caller, Surroundings(line_of(suite, plan), plan.seed))

    def speak(self) -> Frame:
        """The next frame that the telephone sends, ``int16 [1920]``."""
        self._sent.append(self.surroundings.around(self.caller.speak()))
        return self._sent[-1]

    def hear(self, frame: Frame, text: str = "") -> None:
        """The frame, ``int16 [1920]``, that was heard meanwhile, and its text."""
        self._heard.append(frame)
        self.surroundings.hear(frame)
        self.caller.hear(frame, text)

    @property
    def now_s(self) -> float:
        """The end of the last frame."""
        return len(self._heard) * FRAME_S

    def held(self) -> Held:
        """What is kept of it."""
        nothing = np.zeros(0, np.int16)
        return Held(
            self.plan,
            self.caller.done,
            np.concatenate([nothing, *self._heard]),
            np.concatenate([nothing, *self._sent]),
            self.caller.ear.words.all,
        )


def line_of(suite: Suite, plan: Plan) -> LineSettings:
    """The suite's line, without its echo where that is what a control takes away."""
    if plan.control is not None and suite.probe == "echo":
        return suite.line.model_copy(update={"echo": None})
    return suite.line
