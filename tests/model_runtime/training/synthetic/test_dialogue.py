"""Dialogues: what is said when, before anything is rendered."""

from dataclasses import replace
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from config.audio import FRAME_S
from model_runtime.training.synthetic.dialogue import Dialogue, plan_dialogue
from model_runtime.training.synthetic.script import Shares, World
from tests.model_runtime.training.synthetic.worlds import PlainCast, small_world

QUIET = Shares(barge_in=0, backchannel=0, burst=0, hesitation=0, silent=0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The small world, in which nothing happens by chance."""
    return replace(small_world(tmp_path), shares=QUIET)


def plan(world: World, seed: int, *, aligned: bool = False, late: bool = False) -> Dialogue:
    """A dialogue of the plain cast."""
    return plan_dialogue(world, PlainCast(world, aligned=aligned), np.random.default_rng(seed), late=late)


def test_the_agent_greets_at_once_and_answers_at_a_fixed_delay(world: World) -> None:
    """The greeting begins in its frame, a reply three frames after the one in which the caller ends, always."""
    for seed in range(40):
        dialogue = plan(world, seed)
        greeting, *rest = dialogue.said
        assert (greeting.kind, greeting.frame) == ("greeting", 6)
        for asked, reply in zip(rest[::2], rest[1::2], strict=True):
            assert (asked.speaker, reply.speaker, reply.intent) == ("caller", "agent", asked.intent)
            assert reply.frame == ceil(asked.end / FRAME_S - 1e-6) + 3
            assert reply.start == pytest.approx(reply.frame * FRAME_S)
        for said, after in zip(dialogue.said[::2], dialogue.said[1::2], strict=False):
            assert 0.3 <= after.start - said.end <= 1.8
        assert dialogue.frames * FRAME_S > dialogue.said[-1].end + 0.79


def test_a_dialogue_goes_where_its_replies_lead(world: World) -> None:
    """A booking asks for a yes, whose reply forgets it; a goodbye ends the call by its action."""
    ends = set()
    for seed in range(60):
        dialogue = plan(world, seed)
        asked = [each.intent for each in dialogue.said if each.speaker == "caller"]
        for one, after in pairwise(asked):
            assert (one == "book") == (after == "yes")
            assert one != "bye"
        assert (dialogue.ended == "hangup") == (asked[-1] == "bye")
        ends.add(dialogue.ended)
    assert ends == {None, "hangup"}


@pytest.mark.parametrize("aligned", [False, True])
def test_an_interrupted_agent_stops_and_answers_the_interruption(world: World, aligned: bool) -> None:
    """It is silent 4 frames after the caller's onset with 1 s left, its words beyond are gone, then it replies."""
    world = replace(world, shares=replace(QUIET, barge_in=1.0))
    interrupted = 0
    for seed in range(60):
        dialogue = plan(world, seed, aligned=aligned)
        for said, after, reply in zip(dialogue.said, dialogue.said[1:], dialogue.said[2:], strict=False):
            if said.cut is None:
                continue
            interrupted += 1
            assert (after.speaker, after.kind) == ("caller", "interruption")
            onset = after.start + after.clip.words[0].start
            assert round(said.cut / FRAME_S) == int(onset / FRAME_S + 1e-6) + 4
            assert said.start + said.clip.words[-1].end - onset > 1.0 - FRAME_S
            assert onset - said.start >= 5 * FRAME_S - 1e-6
            assert said.end == said.cut
            assert all(word.start < said.cut and word.end <= said.cut for word in said.words())
            assert reply.frame == ceil(after.end / FRAME_S - 1e-6) + 3
        assert dialogue.said[-1].cut is None
    assert interrupted > 20


def test_a_backchannel_stops_nobody(world: World) -> None:
    """It lies within a reply, which goes on to its end, and has no answer."""
    world = replace(world, shares=replace(QUIET, backchannel=1.0))
    hummed = 0
    for seed in range(40):
        dialogue = plan(world, seed)
        for said, after in pairwise(dialogue.said):
            if after.kind == "backchannel":
                hummed += 1
                assert said.speaker == "agent"
                assert said.cut is None
                assert said.start < after.start
                assert after.end < said.end
    assert hummed > 20


def test_a_hesitation_is_waited_for(world: World) -> None:
    """The caller says "um" and pauses; the agent answers the question that follows, not the pause."""
    world = replace(world, shares=replace(QUIET, hesitation=1.0))
    dialogue = plan(world, 1)
    kinds = [each.kind for each in dialogue.said]
    assert kinds[:4] == ["greeting", "hesitation", "question", "reply"]
    assert 0.25 <= dialogue.said[2].start - dialogue.said[1].end <= 0.7


def test_a_silent_caller_is_asked_and_then_left(world: World) -> None:
    """After 5 s the agent asks, after 5 more it says goodbye and ends the call."""
    world = replace(world, shares=replace(QUIET, silent=1.0))
    dialogue = plan(world, 0)
    assert [each.clip.text for each in dialogue.said] == ["Hello there.", "Are you there?", "Goodbye."]
    for said, after in pairwise(dialogue.said):
        assert after.start - said.end == pytest.approx(5.0, abs=FRAME_S)
    assert dialogue.ended == "hangup"


def test_a_late_dialogue_has_no_greeting(world: World) -> None:
    """Its first is the caller."""
    assert plan(world, 0, late=True).said[0].speaker == "caller"


def test_the_same_seed_plans_the_same(world: World) -> None:
    """All is decided by the generator."""
    world = replace(world, shares=Shares())
    one, same, other = ([(e.clip.text, e.start) for e in plan(world, seed).said] for seed in (7, 7, 8))
    assert one == same != other
