"""agent/evaluation/caller.py: when a caller speaks, with an agent whose voice is made by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from agent.evaluation.caller import Caller
from agent.evaluation.plan import Cue, Plan, Sound
from agent.evaluation.replies import Replies
from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.voices import Voice
from telephony.call import Frame
from tests.agent.measures.scene import voice

pytestmark = pytest.mark.peer("espeak-ng")

WORLD = World.load()
HOURS = "We are open from eight in the morning to six in the evening."
SOUND = Sound(np.full(SAMPLE_RATE, 0.1, np.float32), 0.05, 0.95)
VOICE: Frame = np.round(voice(60.0) * 32_767).astype(np.int16).reshape(-1, FRAME_SAMPLES)
SILENT: Frame = np.zeros(FRAME_SAMPLES, np.int16)


@pytest.fixture(scope="module")
def replies() -> Replies:
    """All that the front desk says."""
    return Replies(WORLD)


def talk(
    replies: Replies, cues: list[Cue], speaks: Callable[[float], bool], max_s: float = 60.0
) -> tuple[Caller, Frame]:
    """A call with an agent that speaks at some times; the caller and all that it sent."""
    caller = Caller(Plan(0, 0, Voice("some"), tuple(cues)), replies, reply_within_s=4.0, listen_s=1.0, max_s=max_s)
    sent: list[Frame] = []
    while not caller.over:
        now = len(sent)
        sent.append(caller.speak())
        caller.hear(VOICE[now % len(VOICE)] if speaks(now * FRAME_S) else SILENT)
        assert len(sent) < 2_000
    return caller, np.concatenate(sent)


def between(*stretches: tuple[float, float]) -> Callable[[float], bool]:
    """When the agent speaks: whole frames."""
    return lambda now: any(start <= now + 1e-6 < end for start, end in stretches)


def test_it_speaks_so_long_after_the_agent_as_it_shall(replies: Replies) -> None:
    """What is sent begins there, to the sample, and lasts as long as it does."""
    caller, sent = talk(replies, [Cue("wait", 0, seconds=8), Cue("say", 0, 1.0, SOUND)], between((0.8, 2.4)))
    (done,) = [each for each in caller.done if each.cue.kind == "say"]
    assert done.at_s == pytest.approx(3.4, abs=0.03)
    assert done.onset_s == pytest.approx(done.at_s + 0.05)
    loud = np.flatnonzero(sent)
    assert loud[0] == round(done.at_s * SAMPLE_RATE)
    assert loud[-1] - loud[0] + 1 == SAMPLE_RATE


def test_it_does_not_speak_into_a_pause(replies: Replies) -> None:
    """An agent that goes on before 0.6 s have passed had not ended."""
    caller, _ = talk(replies, [Cue("say", 0, 0.7, SOUND)], between((0.8, 1.6), (2.08, 3.2)))
    assert caller.done[0].at_s == pytest.approx(3.9, abs=0.03)


def test_it_interrupts_so_long_after_the_reply_began(replies: Replies) -> None:
    """It is the reply to what was said last that it interrupts, not what came before."""
    cues = [Cue("say", 0, 1.0, SOUND, reply=HOURS), Cue("interrupt", 0, 0.8, SOUND, left_s=1.0)]
    caller, _ = talk(replies, cues, between((0.8, 2.4), (5.6, 8.8), (11.2, 12.0)))
    assert [each.left_out for each in caller.done] == ["", ""]
    assert caller.done[1].at_s == pytest.approx(6.4, abs=0.09)


def test_it_does_not_interrupt_where_little_is_left_or_nothing_comes(replies: Replies) -> None:
    """Why is told."""
    cues = [Cue("say", 0, 1.0, SOUND, reply="Goodbye."), Cue("interrupt", 0, 0.8, SOUND, left_s=1.0)]
    agent = between((0.8, 2.4), (5.6, 8.8))
    assert talk(replies, cues, agent)[0].done[1].left_out == "too little of the reply was left"
    assert talk(replies, cues, between((0.8, 2.4)))[0].done[1].left_out == "no reply"
    assert talk(replies, cues, between((0.8, 2.4), (5.6, 6.0)))[0].done[1].left_out == "the reply was over"


def test_it_goes_on_without_an_answer(replies: Replies) -> None:
    """After as long as an answer may take, it says the next thing; after the last it leaves."""
    caller, _ = talk(replies, [Cue("say", 0, 1.0, SOUND), Cue("say", 0, 1.0, SOUND)], between((0.8, 2.4)))
    first, second = caller.done
    assert second.at_s == pytest.approx(first.end_s + 4.0, abs=0.2)
    assert caller.ear.now_s == pytest.approx(second.end_s + 4.0, abs=0.2)


def test_it_loses_patience_with_an_agent_that_never_ends(replies: Replies) -> None:
    """It speaks over it, says so, and hangs up in the end."""
    caller, _ = talk(replies, [Cue("say", 0, 1.0, SOUND)], lambda now: True)
    assert caller.done[0].over_agent
    assert caller.done[0].at_s == pytest.approx(12.0, abs=0.1)
    assert caller.ear.now_s < 30


def test_no_call_is_longer_than_it_may_be(replies: Replies) -> None:
    """Whatever is still to come."""
    caller, sent = talk(replies, [Cue("silence", 0, seconds=500)], lambda now: False, max_s=5.0)
    assert len(sent) / SAMPLE_RATE == pytest.approx(5.0, abs=0.1)
    assert caller.done == []


def test_turns_end_when_they_are_due_to(replies: Replies) -> None:
    """Those that would begin later are left out without a word, and what follows them is not."""
    cues = [Cue("say", 0, 1.0, SOUND, until_s=6.0), Cue("say", 0, 1.0, SOUND, until_s=6.0), Cue("say", 1, 1.0, SOUND)]
    agent = between((0.8, 2.4), (5.6, 8.8), (12.0, 13.6))
    assert [each.cue.step for each in talk(replies, cues, agent)[0].done] == [0, 1]


def test_keys_and_silence(replies: Replies) -> None:
    """Keys are there to be taken when they are due, and a silence lasts as long as it shall."""
    cues = [Cue("wait", 0, seconds=8), Cue("silence", 0, seconds=3), Cue("dtmf", 0, 1.0, keys="12")]
    caller, _ = talk(replies, cues, between((0.8, 2.4)))
    wait, silence, dtmf = caller.done
    assert wait.at_s == pytest.approx(3.0, abs=0.1)
    assert silence.at_s == pytest.approx(wait.at_s + 3, abs=0.1)
    assert dtmf.at_s == pytest.approx(silence.at_s + 1, abs=0.1)
    assert caller.keys == ["1", "2"]
