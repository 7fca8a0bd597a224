"""agent/evaluation/judge.py: calls made by hand, and what must be said of them."""

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest

from agent.evaluation.caller import Done
from agent.evaluation.ear import Word
from agent.evaluation.judge import Judged, judge
from agent.evaluation.plan import Cue, Plan, Sound
from agent.evaluation.replies import Replies
from agent.evaluation.schema import Expectation, Suite
from agent.evaluation.talk import Held
from config.audio import SAMPLE_RATE
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.voices import Voice
from tests.agent.measures.scene import voice

pytestmark = pytest.mark.peer("espeak-ng")

WORLD = World.load()
HOURS = "We are open from eight in the morning to six in the evening."
PARKING = "You can park for free behind the building."
ADDRESS = "We are at twelve Garden Street near the station."
SUITE = Suite.model_validate({"name": "made", "steps": [{"say": "hello"}]})
SAID_S = 1.0
"""How long the caller's sounds are."""


@pytest.fixture(scope="module")
def replies() -> Replies:
    """All that the front desk says."""
    return Replies(WORLD)


def cue(kind: Any, at_s: float, reply: str | None = None, **about: Any) -> Done:
    """Something that the caller did for a second from ``at_s`` on."""
    sound = Sound(np.zeros(round(SAID_S * SAMPLE_RATE), np.float32), 0.0, SAID_S)
    return Done(Cue(kind, 0, sound=sound, intent="some", reply=reply, **about), at_s)


def call(seconds: float, done: list[Done], *said: tuple[float, float, str], text_at: float | None = None) -> Held:
    """A call in which the agent was heard ``(from, to, what)``, its words spread evenly."""
    agent = np.zeros(round(seconds * SAMPLE_RATE), np.int16)
    words = []
    for start, end, text in said:
        sound = np.round(voice(end - start) * 32_767).astype(np.int16)
        agent[round(start * SAMPLE_RATE) :][: len(sound)] = sound
        parts = text.split()
        words += [Word(start + (end - start) * n / len(parts), part) for n, part in enumerate(parts)]
    plan = Plan(0, 1, Voice("some"), tuple(each.cue for each in done))
    return Held(plan, done, agent, np.zeros_like(agent), words)


@pytest.fixture
def judged(replies: Replies) -> Any:
    """The judge, with a suite that can be changed."""

    def verdict(held: Held, **settings: Any) -> Judged:
        return judge(held, SUITE.model_copy(update=settings), replies, WORLD.greeting)

    return verdict


GREETING = (0.5, 2.5, WORLD.greeting)


@pytest.mark.parametrize(
    ("said", "begins", "right", "exact", "exact_once", "gap", "early"),
    [
        (HOURS, 5.4, True, True, True, 0.4, False),
        (f"We {HOURS}", 5.4, True, False, True, 0.4, False),
        (HOURS.replace("six", "five"), 5.4, True, False, False, 0.4, False),
        (PARKING, 5.4, False, False, False, 0.4, False),
        ("no words of this desk at all", 5.4, False, False, False, 0.4, False),
        (HOURS, 4.6, True, True, True, -0.4, True),
        (HOURS, 9.5, True, True, True, None, False),  # later than 4 s: none
    ],
)
def test_an_answer(
    judged: Any, said: str, begins: float, right: bool, exact: bool, exact_once: bool, gap: float | None, early: bool
) -> None:
    """Is right by its words, exact by all of them, early or late by its voice."""
    verdict = judged(call(14, [cue("say", 4.0, HOURS)], GREETING, (begins, begins + 3, said)))
    (answer,) = verdict.answers
    assert (answer.right, answer.exact, answer.exact_once, answer.early) == (right, exact, exact_once, early)
    assert answer.gap_s == (None if gap is None else pytest.approx(gap, abs=0.04))
    assert verdict.greeting is True


def test_asking_a_silent_caller_is_no_answer(judged: Any) -> None:
    """A control in which nobody is heard is not answered by that."""
    done = [cue("say", 4.0, HOURS, muted=True)]
    for text, answered in ((WORLD.still_there.say, False), (HOURS, True)):
        (answer,) = judged(call(12, done, GREETING, (7.5, 9.0, text))).answers
        assert (answer.gap_s is not None) is answered


def test_the_day_that_a_reply_names_counts_for_its_words_alone(judged: Any) -> None:
    """The intent was understood where only what fills the reply is another."""
    asked = cue("say", 4.0, "What time on Monday?")
    (answer,) = judged(call(9, [asked], GREETING, (5.4, 7.0, "What time on Friday?"))).answers
    assert (answer.right, answer.exact) == (True, False)


def test_words_that_come_before_the_caller_has_ended_are_early_too(judged: Any) -> None:
    """Even where the voice is not heard yet."""
    held = call(9, [cue("say", 4.0, HOURS)], GREETING, (5.4, 8.0, HOURS))
    early = replace(held, words=[*held.words[:7], Word(4.7, "We"), *held.words[8:]])
    assert [answer.early for answer in judged(held).answers + judged(early).answers] == [False, True]


@pytest.mark.parametrize(("ends", "stop", "again"), [(7.3, 0.3, 8.5), (8.4, 1.4, 9.5), (9.0, 2.0, 9.3)])
def test_the_stop_latency(judged: Any, ends: float, stop: float, again: float) -> None:
    """Runs from the caller's first word to the last sound; a pause of 0.4 s is none, and the new answer is judged."""
    done = [cue("say", 3.0, HOURS), cue("interrupt", 7.0, ADDRESS)]
    verdict = judged(call(13, done, GREETING, (4.4, ends, HOURS), (again, again + 2.5, ADDRESS)))
    (stopped,) = verdict.disturbances
    paused = again - ends <= 0.4
    assert stopped.stop_s == (pytest.approx(again + 2.5 - 7.0 if paused else stop, abs=0.04))
    if not paused:
        assert [answer.right for answer in verdict.answers] == [True, True]
        assert [answer.exact for answer in verdict.answers] == [None, True]


def test_an_agent_that_speaks_to_the_end_of_the_call_never_stops(judged: Any) -> None:
    """Its latency has no end."""
    done = [cue("say", 3.0, HOURS), cue("interrupt", 7.0, ADDRESS)]
    assert judged(call(10, done, GREETING, (4.4, 10.0, HOURS))).disturbances[0].stop_s == inf


def test_an_agent_that_does_not_speak_cannot_be_stopped(judged: Any) -> None:
    """Such an interruption counts for nothing."""
    done = [cue("say", 3.0, HOURS), cue("interrupt", 7.0, ADDRESS)]
    assert judged(call(10, done, GREETING, (4.4, 6.5, HOURS))).disturbances[0].stop_s is None


@pytest.mark.parametrize(("ends", "said", "finished"), [(8.0, HOURS, True), (5.7, "We are open", False)])
def test_a_back_channel(judged: Any, ends: float, said: str, finished: bool) -> None:
    """Did not stop an agent that went on, and finished its sentence."""
    held = call(12, [cue("say", 3.0, HOURS), cue("backchannel", 5.5)], GREETING, (4.4, ends, said))
    (hum,) = judged(held).disturbances
    assert hum.stop_s == pytest.approx(ends - 5.5, abs=0.04)
    assert hum.finished is finished


@pytest.mark.parametrize(("begins", "started"), [(5.0, True), (8.5, False), (3.8, None)])
def test_a_false_start(judged: Any, begins: float, started: bool | None) -> None:
    """Is a voice that begins within 3 s of a noise; where it speaks already there can be none."""
    held = call(12, [cue("noise", 4.0, in_speech=False)], GREETING, (begins, begins + 2, PARKING))
    assert judged(held).disturbances[0].false_start is started


@pytest.mark.parametrize(
    ("said", "undisturbed"),
    [
        (HOURS, True),
        (HOURS.replace("morning", "evening"), True),
        ("We are open from eight", False),
        (f"{PARKING} {HOURS}", False),
        (f"We are open from {PARKING}", False),
    ],
)
def test_what_its_echo_does_to_an_agent(judged: Any, said: str, undisturbed: bool) -> None:
    """It breaks off, or says another thing after the first; a wrong word is neither."""
    verdict = judged(call(12, [cue("say", 3.0, HOURS)], GREETING, (4.4, 8.0, said)))
    assert verdict.undisturbed == [True, undisturbed]


def test_the_greeting_must_be_the_right_one_before_the_caller_speaks(judged: Any) -> None:
    """Word for word; words told twice are told apart."""
    done = [cue("say", 4.0, HOURS)]
    twice = WORLD.greeting.replace("how", "how how")
    for said, greeting, once in ((WORLD.greeting, True, True), (twice, False, True), ("Hello", False, False)):
        verdict = judged(call(6, done, (0.5, 2.5, said)))
        assert (verdict.greeting, verdict.greeting_once) == (greeting, once)
    assert judged(call(9, done, (5.5, 7.5, WORLD.greeting))).greeting is False


def test_what_a_noise_makes_the_agent_say_is_no_part_of_its_greeting(judged: Any) -> None:
    """The greeting ends where something may be answered."""
    done = [cue("noise", 3.5, in_speech=False), cue("say", 9.0, HOURS)]
    assert judged(call(12, done, GREETING, (5.0, 7.0, PARKING))).greeting is True


def test_who_should_hang_up_does(judged: Any) -> None:
    """By a BYE on a real call, by the right words where there is no line; where it should not, nothing is judged."""
    bye = "Thank you for calling. Goodbye."
    held = call(9, [cue("say", 3.0, bye, action="hangup")], GREETING, (4.4, 6.5, bye))
    assert judged(held).hung_up is True
    assert judged(replace(held, words=held.words[:-1])).hung_up is False
    assert judged(replace(held, call="abc")).hung_up is False
    assert judged(replace(held, call="abc", hung_up_s=7.0)).hung_up is True
    assert judged(call(9, [cue("say", 3.0, HOURS)], GREETING, (4.4, 6.5, HOURS))).hung_up is None


@pytest.mark.parametrize(
    ("expect", "met"),
    [
        ({"text": HOURS}, True),
        ({"text": PARKING}, False),
        ({"text_contains": ["eight in the MORNING", "six"]}, True),
        ({"text_contains": ["eight", "seven"]}, False),
        ({"within_s": 0.6}, True),
        ({"within_s": 0.2}, False),
        ({"quiet": True}, False),
        ({"hangs_up": True}, False),
    ],
)
def test_expectations(judged: Any, expect: dict[str, Any], met: bool) -> None:
    """Each is met or not by what came before the next thing that the caller did."""
    done = [cue("say", 3.0, HOURS, expect=Expectation.model_validate(expect)), cue("say", 9.0, PARKING)]
    verdict = judged(call(14, done, GREETING, (4.4, 8.0, HOURS), (10.4, 12.0, PARKING)))
    assert [check.met for check in verdict.checks][-1:] == [met]


def test_of_a_control_only_voices_are_judged(judged: Any) -> None:
    """Nobody was asked anything that could be answered rightly."""
    held = call(9, [cue("say", 3.0, HOURS, muted=True)], GREETING, (4.4, 6.5, HOURS))
    (answer,) = judged(held).answers
    assert (answer.right, answer.exact) == (None, None)
    assert answer.gap_s is not None


def test_what_the_call_did_not_last_for_is_told(judged: Any) -> None:
    """A cue that never came is left out, and what was expected of it not met."""
    done = [cue("say", 3.0, HOURS), cue("say", 9.0, PARKING, expect=Expectation(quiet=True))]
    held = call(8, done, GREETING, (4.4, 7.0, HOURS))
    verdict = judged(replace(held, done=done[:1]))
    assert verdict.left_out == ["say: the call was over"]
    assert [check.met for check in verdict.checks] == [False]


def test_a_call_that_never_was_has_nothing_but_its_fault(judged: Any) -> None:
    """No score counts it."""
    held = replace(call(1, []), agent=np.zeros(0, np.int16), fault="486 Busy Here")
    verdict = judged(held)
    assert (verdict.fault, verdict.answers, verdict.greeting) == ("486 Busy Here", [], None)
