"""Worlds: the one that ships, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from model_runtime.training.synthetic.grammar import SLOT
from model_runtime.training.synthetic.script import World, WorldError, bare, fill_slots
from tests.model_runtime.training.synthetic.worlds import SMALL, small_world


@pytest.fixture(scope="module")
def front_desk() -> World:
    """The world of the embedded model."""
    return World.load()


def test_the_front_desk_has_many_ways_to_ask(front_desk: World) -> None:
    """At least 15 intents, thousands of phrasings, and some of each kind held out from every intent."""
    assert len(front_desk.intents) >= 15
    assert sum(len(each.templates("seen")) for each in front_desk.intents.values()) > 5000
    for name, intent in front_desk.intents.items():
        assert len(intent.templates("seen")) >= 40, name
        assert len(intent.templates("combination")) >= 3, name
        assert len(intent.templates("unseen")) >= 5, name


def test_what_is_held_out_is_never_trained_on(front_desk: World) -> None:
    """No held out phrasing is among the seen ones of any intent, and none of them is drawn."""
    seen = {text for each in front_desk.intents.values() for text in each.templates("seen")}
    random = np.random.default_rng(0)
    for name, intent in front_desk.intents.items():
        held = {*intent.templates("combination"), *intent.templates("unseen")}
        assert not held & seen, name
        if not any(SLOT.search(text) for text in held):
            assert not {front_desk.draw(name, random).text for _ in range(200)} & held


def test_unseen_phrasings_have_known_words(front_desk: World) -> None:
    """Every word of an unseen phrasing stands in some phrasing that is trained on."""
    known = set(front_desk.caller_words)
    for intent in front_desk.intents.values():
        words = {bare(w) for text in intent.templates("unseen") for w in SLOT.sub(" ", text).split()} - {""}
        assert words <= known, (intent.name, words - known)


def test_no_phrasing_means_two_things(front_desk: World) -> None:
    """A sentence belongs to one intent."""
    meaning: dict[str, str] = {}
    for name, intent in front_desk.intents.items():
        for text in {t for w in ("seen", "combination", "unseen") for t in intent.templates(w)}:  # type: ignore[arg-type]
            assert meaning.setdefault(text, name) == name, text


def test_every_turn_has_an_answer(front_desk: World) -> None:
    """Whatever is possible in a state has a reply there, whose text is among all that the agent says."""
    for state in front_desk.states:
        for name in front_desk.possible(state):
            for slots in ({}, {"day": "Monday"}, {"time": "nine"}, {"day": "Friday", "time": "two"}):
                reply = front_desk.reply(name, state, slots)
                needed = set(SLOT.findall(reply.say))
                assert needed <= set(slots)
                assert reply.again or fill_slots(reply.say, slots) in front_desk.agent_texts


def test_replies_are_told_apart_by_their_first_words(front_desk: World) -> None:
    """Different texts without slots differ within three words, so that a score may look at these alone."""
    firsts = [tuple(text.split()[:3]) for text in front_desk.agent_texts if " at " not in text or "Street" in text]
    same = {first for first in firsts if firsts.count(first) > 1}
    assert same <= {("Your", "appointment", "is"), ("What", "time", "on")}, same


def test_slots_are_filled_as_the_agent_says_them(tmp_path: Path) -> None:
    """The caller's word and the agent's are told apart."""
    world = small_world(tmp_path)
    phrase = world.draw("book", np.random.default_rng(0))
    assert phrase.text in ("a table on monday", "a table on friday")
    assert phrase.slots["day"].lower() == phrase.text.split()[-1]
    assert fill_slots(world.reply("book", "open", phrase.slots).say, {"day": "Monday"}) == "Monday. Is that right?"
    assert "Friday. Is that right?" in world.agent_texts


def test_what_is_possible_in_a_state(tmp_path: Path) -> None:
    """Anything common where a state says so, and nothing that belongs to other states."""
    world = small_world(tmp_path)
    assert world.possible("open") == pytest.approx({"hours": 1 / 3, "book": 1 / 3, "bye": 1 / 3})
    assert world.possible("booking") == {"yes": 1}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("then: booking}", "then: nowhere}"), "no state nowhere"),
        (('booking: {"yes": 1}', "booking: {maybe: 1}"), "no intent maybe"),
        (("on <day>", "on <night>"), "no slot night"),
        (("(when|what", "(when|(what"), "bracket"),
        (("greeting: Hello there.", ""), "greeting"),
        (("phrases: [bye]", "words: [bye]"), "phrases"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    """A world that speaks of what it does not have is refused, with the file's name."""
    path = tmp_path / "world.yaml"
    path.write_text(SMALL.replace(*change))
    with pytest.raises(WorldError, match=rf"world\.yaml.*{fault}"):
        World.load(path)
