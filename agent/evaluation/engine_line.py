"""Calls held straight against a model, stepped as the engine steps it, as fast as the machine is.

No clock and no network. A step takes whole frames, so what it says is heard one frame after what it answers: the 80 ms
that a real call cannot avoid are in all times.
"""

from collections.abc import Iterable

import numpy as np

from agent.evaluation.plan import Plan, PlanError
from agent.evaluation.replies import Replies
from agent.evaluation.schema import Suite
from agent.evaluation.surroundings import Leg
from agent.evaluation.talk import Talk, Told, line_of
from config.audio import FRAME_SAMPLES
from model_runtime.engine.model import AgentPrompt, Beginning, Model, SamplingOptions
from telephony.call import Frame


class EngineLine:
    """Holds as many calls at a time as the model has slots."""

    def __init__(self, model: Model, replies: Replies) -> None:
        self._model, self._replies = model, replies

    def hold(self, plans: Iterable[Plan], suite: Suite, told: Told) -> None:
        """Hold the calls of these callers, and tell of each as it is over; ``PlanError`` where one presses keys."""
        if any(step.dtmf is not None for step in suite.steps):
            raise PlanError(f"{suite.name} presses keys, which only a real call carries: use --to")
        waiting = iter(plans)
        seats: list[_Seat | None] = [None] * self._model.slots
        while True:
            for row, seat in enumerate(seats):
                if seat is None and (plan := next(waiting, None)) is not None:
                    self._begin(row, plan, suite)
                    seats[row] = _Seat(plan, suite, self._replies)
            taken = [(row, seat) for row, seat in enumerate(seats) if seat is not None]
            if not taken:
                return
            audio = np.zeros((self._model.slots, FRAME_SAMPLES), np.int16)
            mask = np.zeros(self._model.slots, np.bool_)
            for row, seat in taken:
                audio[row], mask[row] = seat.speak(), True
            output = self._model.step(audio, mask)
            for row, seat in taken:
                if seat.hear(output.audio[row], output.text[row]):
                    told(seat.talk.held())
                    seats[row] = None

    def _begin(self, row: int, plan: Plan, suite: Suite) -> None:
        """Make a slot ready for a new conversation, to its end."""
        sampling = SamplingOptions(**suite.agent.sampling.model_dump(exclude={"seed"}))
        if not suite.agent.greeting:
            self._model.reset(row, sampling, plan.seed)
            return
        for _ in self._model.begin(row, sampling, plan.seed, Beginning(AgentPrompt(greeting=suite.agent.greeting))):
            pass


class _Seat:
    """A call in a slot."""

    def __init__(self, plan: Plan, suite: Suite, replies: Replies) -> None:
        self.talk = Talk.begin(plan, suite, replies)
        line = line_of(suite, plan)
        self._to_agent, self._to_caller = Leg(line), Leg(line)
        self._next: tuple[Frame, str] = np.zeros(FRAME_SAMPLES, np.int16), ""

    def speak(self) -> Frame:
        return self._to_agent.carry(self.talk.speak())

    def hear(self, audio: Frame, text: str) -> bool:
        """Take what a step gave; whether the call is over."""
        self.talk.hear(*self._next)
        self._next = self._to_caller.carry(audio), text
        return self.talk.caller.over
