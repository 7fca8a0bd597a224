"""agent/evaluation: whole suites held against models whose manners are known."""

from typing import Any

import pytest

from agent.evaluation.engine_line import EngineLine
from agent.evaluation.plan import Planner
from agent.evaluation.replies import Replies
from agent.evaluation.report import Results
from agent.evaluation.run import run_suite
from agent.evaluation.schema import Suite
from agent.evaluation.suite import load_suite
from model_runtime.training.synthetic.script import World
from tests.agent.evaluation.scripted import Manners, ScriptedModel

pytestmark = pytest.mark.peer("espeak-ng")

WORLD = World.load()
QUESTION = [{"wait": {}}, {"say": {"intent": "any"}}]


@pytest.fixture(scope="module")
def replies() -> Replies:
    """All that the front desk says."""
    return Replies(WORLD)


def suite_of(steps: list[dict[str, Any]], **settings: Any) -> Suite:
    """A suite of six calls."""
    return Suite.model_validate({"name": "tried", "dialogues": 6, "steps": steps, **settings})


def held(suite: Suite, replies: Replies, manners: Manners, slots: int = 4) -> Results:
    """The suite's calls with a scripted model."""
    planner = Planner(suite, WORLD, replies)
    plans = [planner.plan(number) for number in range(suite.dialogues)]
    line = EngineLine(ScriptedModel(WORLD, slots, plans, manners), replies)
    return run_suite(suite, WORLD, line, replies, how={}, progress=lambda _: None)


def values(results: Results, variant: str = "real") -> dict[str, float | None]:
    """The scores' values alone."""
    return {name: score.value for name, score in results.scores()[variant].items()}


def test_an_agent_that_is_right_is_found_right(replies: Replies) -> None:
    """Greeting, intents and words are right, gaps are as long as they are, nobody is interrupted."""
    results = held(suite_of(QUESTION, controls=["muted"]), replies, Manners())
    real, muted = values(results), values(results, "muted")
    assert (real["greeting"], real["intent"], real["exact"], real["answered"], real["early"]) == (1, 1, 1, 1, 0)
    assert real["undisturbed"] == 1
    assert real["gap_median_s"] == pytest.approx(6 * 0.08, abs=0.15)  # 5 quiet frames, and the one of the line
    assert muted["answered"] == 0


def test_each_fault_is_found(replies: Replies) -> None:
    """An agent that does not greet, says other things, stutters, is silent, or answers too soon, scores accordingly."""
    wrong = dict.fromkeys(WORLD.agent_texts, "You can park for free behind the building.")
    wrong |= {"You can park for free behind the building.": "A visit costs fifty dollars."}
    assert values(held(suite_of(QUESTION), replies, Manners(greets_at=None)))["greeting"] == 0
    assert values(held(suite_of(QUESTION), replies, Manners(says=wrong)))["intent"] == 0
    stuttering = values(held(suite_of(QUESTION), replies, Manners(stutters=True)))
    assert (stuttering["intent"], stuttering["exact"], stuttering["exact_once"]) == (1, 0, 1)
    assert (stuttering["greeting"], stuttering["greeting_once"]) == (0, 1)
    assert values(held(suite_of(QUESTION), replies, Manners(answers=False)))["answered"] == 0
    assert values(held(suite_of(QUESTION), replies, Manners(waits=-3, stops_after=None)))["early"] == 1


BARGE_IN = [{"wait": {}}, {"say": {"intent": "hours"}}, {"interrupt": {"intent": "address"}}]


@pytest.mark.parametrize("frames", [2, 5])
def test_the_stop_latency_is_what_it_is(replies: Replies, frames: int) -> None:
    """From the first word to the fall of the voice: so many frames of hearing it, and one on the line."""
    results = held(suite_of(BARGE_IN, controls=["muted"]), replies, Manners(stops_after=frames))
    real, muted = values(results), values(results, "muted")
    assert (real["stopped"], real["intent_after_interruption"]) == (1, 1)
    assert real["stop_median_s"] == pytest.approx((frames + 0.5) * 0.08, abs=0.12)
    assert muted["stopped"] == 0


def test_an_agent_that_goes_on_has_not_stopped(replies: Replies) -> None:
    """Interrupted, it finishes its sentence."""
    real = values(held(suite_of(BARGE_IN), replies, Manners(stops_after=None)))
    assert real["stopped"] == 0
    assert real["stop_median_s"] is not None
    assert real["stop_median_s"] > 1.0


HUM = [{"wait": {}}, {"say": {"intent": "hours"}}, {"backchannel": {}}]


@pytest.mark.parametrize(("stops_after", "went_on"), [(None, 1), (1, 0)])
def test_a_back_channel_stops_only_those_who_stop(replies: Replies, stops_after: int | None, went_on: int) -> None:
    """An agent that hears no back-channels goes on to its last word; one that stops at every sound does not."""
    real = values(held(suite_of(HUM), replies, Manners(stops_after=stops_after, waits=5)))
    assert (real["went_on"], real["finished"]) == (went_on, went_on)


def test_a_noise_makes_only_those_speak_who_take_it_for_speech(replies: Replies) -> None:
    """A steady noise in silence is answered by an agent that answers whatever is loud."""
    steps = [{"wait": {}}, {"noise": {"kind": "white", "during": "silence"}}, {"silence": 2}, QUESTION[1]]
    suite = suite_of(steps, controls=["muted"])
    results = held(suite, replies, Manners())
    assert values(results)["false_starts"] == 1
    assert values(results, "muted")["false_starts"] == 0


def test_its_own_echo_disturbs_an_agent_that_hears_it(replies: Replies) -> None:
    """With the echo on the line it breaks off; without, the same agent does not."""
    suite = suite_of(QUESTION, line={"echo": {"level_db": -35}}, controls=["muted"])
    results = held(suite, replies, Manners(hears_itself=True, stops_after=4))
    assert values(results)["undisturbed"] == 0
    assert values(results, "muted")["undisturbed"] == 1
    assert values(held(suite, replies, Manners()))["undisturbed"] == 1


def test_slots_change_nothing(replies: Replies) -> None:
    """Calls held one by one and four at a time are judged alike."""
    suite = suite_of(QUESTION)
    one, four = (held(suite, replies, Manners(), slots).calls["real"] for slots in (1, 4))
    assert one == four


def test_a_long_call_is_scored_once_more_by_its_end(replies: Replies) -> None:
    """Turns go on until they are due to end, and those after ``late_s`` have a score of their own."""
    suite = suite_of([{"wait": {}}, {"turns": {"until_s": 40}}], late_s=25, dialogues=1)
    results = held(suite, replies, Manners())
    call, scores = results.calls["real"][0], results.scores()["real"]
    assert max(answer.onset_s for answer in call.answers) < 41.5
    assert 40 < call.duration_s < 60
    assert 0 < scores["late_intent"].count < scores["intent"].count == len(call.answers)
    assert scores["intent"].value == 1


def test_the_shipped_suites_can_be_held(replies: Replies) -> None:
    """Each has callers whose every cue comes to pass with an agent that is right, and its requirements are met."""
    for name in ("questions-seen", "conversation", "barge-in"):
        shipped = load_suite(name)[0]
        suite = shipped.model_copy(update={"dialogues": 3, "controls": ["muted"]})
        results = held(suite, replies, Manners())
        assert not [left_out for call in results.calls["real"] for left_out in call.left_out], name
        assert [str(each) for each in results.verdicts() if not each.met] == [], name
        assert results.good
