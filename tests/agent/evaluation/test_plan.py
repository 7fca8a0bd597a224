"""agent/evaluation/plan.py: what callers will do."""

from typing import Any

import numpy as np
import pytest

from agent.evaluation.plan import Plan, PlanError, Planner
from agent.evaluation.replies import Replies
from agent.evaluation.schema import Suite
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.voices import HELD_VARIANTS

pytestmark = pytest.mark.peer("espeak-ng")

WORLD = World.load()
STEPS: list[dict[str, Any]] = [{"wait": {}}, {"say": {"intent": "any"}}, {"interrupt": {"intent": "any"}}]


@pytest.fixture(scope="module")
def replies() -> Replies:
    """All that the front desk says."""
    return Replies(WORLD)


def planner(replies: Replies, steps: list[dict[str, Any]], **settings: Any) -> Planner:
    """Of a suite with these steps."""
    return Planner(Suite.model_validate({"name": "tried", "steps": steps, **settings}), WORLD, replies)


def told(plan: Plan) -> list[tuple[str, str, str | None, float]]:
    """What can be compared of a plan."""
    return [(cue.kind, cue.text, cue.reply, cue.after_s) for cue in plan.cues]


def test_the_same_seed_and_number_give_the_same_caller(replies: Replies) -> None:
    """To the last sample, in whatever order they are made; another number is another caller."""
    one, other = planner(replies, STEPS), planner(replies, STEPS)
    first, second, again = one.plan(3), other.plan(4), other.plan(3)
    assert told(first) == told(again) != told(second)
    assert (first.voice, first.seed) == (again.voice, again.seed)
    for a, b in zip(first.cues, again.cues, strict=True):
        assert (a.sound is None) == (b.sound is None)
        if a.sound is not None and b.sound is not None:
            np.testing.assert_array_equal(a.sound.audio, b.sound.audio)


@pytest.mark.parametrize("control", ["muted", "noise"])
def test_a_control_is_the_same_caller_without_what_is_tested(replies: Replies, control: Any) -> None:
    """Only the interruption's sound is another; its times stay."""
    made = planner(replies, STEPS)
    real, paired = made.plan(5), made.plan(5, control)
    assert told(real) == told(paired)
    assert [cue.muted for cue in paired.cues] == [False, False, True]
    said, taken = real.cues[2].sound, paired.cues[2].sound
    assert said is not None
    assert taken is not None
    assert (said.onset_s, said.end_s, said.audio.shape) == (taken.onset_s, taken.end_s, taken.audio.shape)
    assert bool(taken.audio.any()) is (control == "noise")
    np.testing.assert_array_equal(real.cues[1].sound.audio, paired.cues[1].sound.audio)  # type: ignore[union-attr]


def test_what_is_interrupted_is_long_enough(replies: Replies) -> None:
    """With a second left after the latest time at which the caller may begin, and never a farewell."""
    made = planner(replies, STEPS)
    for number in range(20):
        cue = made.plan(number).cues[1]
        assert cue.reply is not None
        assert replies.length_s(cue.reply) >= 1.2 + 1.0
        assert cue.action is None
    impossible = [{"say": {"intent": "any"}}, {"interrupt": {"intent": "any", "left_s": 30}}]
    with pytest.raises(PlanError, match="has an answer of 31"):
        planner(replies, impossible).plan(0)


def test_only_the_last_turn_may_end_the_call(replies: Replies) -> None:
    """Of two questions the first is never one after which the agent hangs up."""
    made = planner(replies, [{"say": {"intent": "any"}}, {"say": {"intent": "any"}}])
    ends = [[cue.action is not None for cue in made.plan(number).cues] for number in range(60)]
    assert not any(first for first, _ in ends)
    assert any(second for _, second in ends)


def test_voices_and_words_are_those_that_are_asked_for(replies: Replies) -> None:
    """Held-out voices, and phrasings that are in no grammar."""
    made = planner(replies, [{"say": {"intent": "any"}}], wording="unseen")
    plans = [made.plan(number) for number in range(30)]
    assert {plan.voice.name.rsplit("+", 1)[1] for plan in plans} <= set(HELD_VARIANTS)
    assert len({plan.voice for plan in plans}) == 30
    for plan in plans:
        (cue,) = plan.cues
        templates = WORLD.intents[cue.intent].templates("unseen")
        assert any(len(each.split()) == len(cue.text.split()) for each in templates), cue.text
        assert cue.text not in WORLD.intents[cue.intent].templates("seen")


def test_a_conversation_goes_on_as_if_all_answers_were_right(replies: Replies) -> None:
    """After a question that asks for a day comes what a caller may say then, and its reply knows what was said."""
    made = planner(replies, [{"turns": 12}])
    for number in range(10):
        state, slots, last = "open", dict[str, str](), WORLD.greeting
        for cue in made.plan(number).cues:
            assert cue.intent in WORLD.possible(state)
            if WORLD.intents[cue.intent].fresh:
                slots = {}
            known = {value: name for name, values in WORLD.slots.items() for value in values.values()}
            words = [WORLD.slots[name].get(word) for name in WORLD.slots for word in cue.text.split()]
            slots |= {known[word]: word for word in words if word}
            reply = WORLD.reply(cue.intent, state, slots)
            assert reply.action is None
            if reply.again:
                assert cue.reply == last
            else:
                assert all(
                    value in (cue.reply or "").lower() or value in (cue.reply or "") for value in _in(reply.say, slots)
                )
                state, last = reply.then, cue.reply or ""
            slots = {} if reply.forget else slots


def _in(say: str, slots: dict[str, str]) -> list[str]:
    return [value for name, value in slots.items() if f"<{name}>" in say]
