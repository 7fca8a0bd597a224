from pathlib import Path
from typing import Any

import pytest

from agent.measures.conversation import ConversationMeasures
from config.audio import FRAME_S
from tests.agent.measures.scene import Scene, Signal, about, noise, spoken, voice

NEAR = 0.04


def near(*values: float) -> list[Any]:
    """Each value, give or take 40 ms."""
    return [about(value) for value in values]


def test_turn_gaps_and_first_response() -> None:
    """A gap runs from the caller's end to the agent's start; the greeting is a response and no turn."""
    scene = Scene(14).agent_says(0.6, voice(2)).caller_says(3.5, voice(1.5)).agent_says(5.62, voice(1))
    scene.caller_says(7.5, voice(1)).caller_says(9.0, voice(0.6)).agent_says(10.8, voice(2))
    measures = scene.play()
    assert measures.turn_gaps_s == near(0.62, 1.2)
    assert measures.first_response_s == about(0.6)
    assert measures.longest_silence_s == about(1.2)
    assert measures.barge_ins == measures.overlaps == 0


def test_a_quick_answer_is_a_turn() -> None:
    """An agent that starts 0.12 s after the caller's end, before that end is certain, gets its gap."""
    measures = Scene(6).caller_says(1, voice(1)).agent_says(2.12, voice(1)).play()
    assert measures.turn_gaps_s == near(0.12)


def test_an_agent_that_starts_early_overlaps() -> None:
    """An agent that begins before the caller's end has an overlap and no turn gap."""
    measures = Scene(6).caller_says(1, voice(1.5)).agent_says(2.2, voice(1)).play()
    assert measures.turn_gaps_s == []
    assert (measures.overlaps, measures.overlap_s) == (1, about(0.3, 2 * NEAR))


def test_an_agent_that_goes_on_takes_no_turn() -> None:
    """The agent's next sentence after its own pause, the caller having said "mhm" in its first one, is no turn."""
    measures = Scene(8).agent_says(1, voice(2)).caller_says(2, voice(0.24)).agent_says(4, voice(2)).play()
    assert measures.turn_gaps_s == []
    assert measures.backchannels == 1


@pytest.mark.parametrize("yields_s", [0.3, 0.9, 2.5])
def test_a_barge_in_tells_how_long_the_agent_went_on(yields_s: float) -> None:
    """The time to yield runs from the caller's onset to the agent's end, and is told within half a second of it."""
    scene = Scene(9).agent_says(1, voice(2 + yields_s)).caller_says(3, voice(2))
    measures = scene.play()
    assert scene.barge_ins == [tuple(near(3, yields_s))]
    assert scene.told_at_s[0] <= 3 + yields_s + 0.5
    assert measures.barge_ins == 1
    assert measures.overlap_s == about(min(2, yields_s), 2 * NEAR)


def test_an_agent_that_talks_over_the_caller_has_not_yielded() -> None:
    """After 3 s without an end it is told that the agent did not yield; the caller's further words change nothing."""
    scene = Scene(12).agent_says(1, voice(9)).caller_says(3, voice(0.5)).caller_says(4.5, voice(1))
    measures = scene.play()
    assert scene.barge_ins == [(about(3), None)]
    assert scene.told_at_s[0] == about(6.1, 0.1)
    assert measures.summary()["barge_ins_yielded"] == 0


def test_a_call_that_ends_in_a_barge_in_was_not_yielded() -> None:
    """A caller who interrupts and hangs up counts, and the end of the call is not the agent's yielding."""
    scene = Scene(4).agent_says(1, voice(3)).caller_says(3, voice(0.6))
    scene.play()
    assert scene.barge_ins == [(about(3), None)]


def test_backchannels_are_no_barge_ins() -> None:
    """A caller who says less than 0.3 s while the agent speaks gives back-channels."""
    scene = Scene(12).agent_says(1, voice(8))
    for at_s in (2.0, 4.0, 6.0):
        scene.caller_says(at_s, voice(0.25))
    measures = scene.play()
    assert (measures.backchannels, measures.barge_ins, scene.barge_ins) == (3, 0, [])


def test_both_starting_at_once_is_no_barge_in() -> None:
    """A caller who begins within 0.2 s of the agent, or as the agent ends, has not interrupted."""
    assert Scene(6).agent_says(1, voice(2)).caller_says(1.1, voice(2)).play().barge_ins == 0
    assert Scene(6).agent_says(1, voice(2)).caller_says(2.96, voice(2)).play().barge_ins == 0


@pytest.mark.parametrize("delay_s", [0.06, 0.2, 0.4])
def test_the_agents_echo_is_not_the_caller(delay_s: float) -> None:
    """The agent's loud voice, 30 dB down and late in the caller's audio, is not heard as the caller."""
    said = voice(6, -8)
    echo = said * 10 ** (-30 / 20)
    scene = Scene(10).agent_says(1, said).caller_says(1 + delay_s, echo).caller_says(0, noise(10, -60))
    assert not scene.play().caller_has_spoken
    assert Scene(10).caller_says(1, echo).play().caller_has_spoken  # the rule did it, not the level


def test_a_caller_is_heard_through_the_echo() -> None:
    """A caller at -26 dBFS who interrupts a loud agent with an echo at -30 dB is found."""
    said = voice(3.4, -12)
    scene = Scene(8).agent_says(1, said).caller_says(1.15, said * 10 ** (-30 / 20)).caller_says(3, voice(2, -26))
    scene.play()
    assert scene.barge_ins == [tuple(near(3, 1.4))]


@pytest.mark.peer("espeak-ng")
def test_spoken_words_on_a_noisy_line(tmp_path: Path) -> None:
    """With spoken words and line noise the gap, the barge-in and its yield are right to 80 ms."""
    greeting, greeting_begins, greeting_ends = spoken("Good morning, this is the front desk.", tmp_path)
    question, begins, ends = spoken("What are your opening hours?", tmp_path)
    answer, answer_begins, _ = spoken("We are open from nine to five on every day but Sunday and Monday", tmp_path)
    scene = Scene(16).caller_says(0, noise(16, -52)).agent_says(0.5, greeting)
    asked_s = 1 + greeting_ends + 0.5
    scene.caller_says(asked_s, question)
    answered_s = asked_s + ends + 0.4
    cut: Signal = answer[: round((answer_begins + 2.0) * 24_000)]
    scene.agent_says(answered_s, cut)
    interrupts_s = answered_s + answer_begins + 1.4
    scene.caller_says(interrupts_s - begins, question)
    measures = scene.play()
    assert measures.first_response_s == about(0.5 + greeting_begins)
    assert measures.turn_gaps_s == [about(0.4 + answer_begins, 2 * NEAR)]
    assert scene.barge_ins == [(about(interrupts_s), about(0.6, 2 * NEAR))]


def test_what_the_silence_limits_ask() -> None:
    """The quiet times and who speaks follow the sound, from 0.3 s after it at the latest."""
    seen: dict[float, tuple[object, ...]] = {}

    def note(measures: ConversationMeasures, at_s: float) -> None:
        quiet = [round(each, 2) for each in (measures.quiet_s, measures.agent_quiet_s, measures.caller_quiet_s)]
        flags = measures.caller_has_spoken, measures.agent_speaking, measures.caller_speaking
        seen[round(at_s, 2)] = (*quiet, *flags)

    Scene(8).agent_says(1.04, voice(1)).caller_says(4, voice(1)).play(note)
    assert seen[0.8] == (0.8, 0.8, 0.8, False, False, False)
    assert seen[1.6] == (0.0, 0.0, 1.6, False, True, False)
    assert seen[3.2] == (about(1.16), about(1.16), 3.2, False, False, False)
    assert seen[4.8] == (0.0, about(2.76), 0.0, True, False, True)
    assert seen[8.0] == (*near(3.0, 5.96, 3.0), True, False, False)


def test_missing_blocks_are_time_of_silence() -> None:
    """Blocks that never come leave the clock right: what follows lies where it was."""
    scene = Scene(10).agent_says(1, voice(1)).caller_says(6, voice(1)).agent_says(7.5, voice(1))
    measures = scene.play(lost=range(40, 60))
    assert measures.duration_s == about(10)
    assert measures.turn_gaps_s == near(0.5)
    assert measures.longest_silence_s == about(4)
    skipped = ConversationMeasures()
    skipped.skip(4.0)
    assert skipped.quiet_s == about(4.0)


def test_the_summary_adds_up() -> None:
    """Speech, silence and overlap make up the call's duration; every value is a number with its unit in its name."""
    scene = (
        Scene(12).agent_says(1, voice(4)).caller_says(4.5, voice(2)).agent_says(7, voice(2)).caller_says(8, voice(3))
    )
    measures = scene.play()
    measures.close()
    summary = measures.summary()
    together = summary["agent_speech_s"] + summary["caller_speech_s"] - summary["overlap_s"] + summary["silence_s"]
    assert together == about(summary["duration_s"], 0.002) == about(12, 0.001)
    assert summary["agent_talk_ratio"] == about(6 / 11, 0.02)
    assert summary["overlaps"] == 2
    assert summary["overlap_s"] == about(1.5, 0.1)
    assert all(type(value) in (int, float) for value in summary.values())
    counts = {name for name, value in summary.items() if type(value) is int}
    assert counts == {"turns", "overlaps", "barge_ins", "barge_ins_yielded", "backchannels"}


def test_both_ending_at_once_is_one_overlap() -> None:
    """An overlap is counted once, whichever side ends first, or both in one block."""
    for caller_s in (0.8, 1.0, 1.2):
        measures = Scene(5).agent_says(1, voice(2)).caller_says(2, voice(caller_s)).play()
        assert (measures.overlaps, measures.overlap_s) == (1, about(min(1.0, caller_s), 2 * NEAR))


def test_a_call_in_which_nothing_was_said() -> None:
    """A silent call has no medians and no ratio, and is silent from end to end."""
    summary = Scene(5.04).play().summary()
    assert summary["silence_s"] == summary["longest_silence_s"] == summary["duration_s"] == about(63 * FRAME_S)
    assert "agent_talk_ratio" not in summary
    assert "first_response_s" not in summary
