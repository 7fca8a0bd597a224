"""What the agent of a world can say: which of it was meant, whether it is whole, and how long it takes. Pure."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

from model_runtime.training.synthetic.script import World, bare, fill_slots, once
from model_runtime.training.synthetic.speech import agent_speech

_ALIKE: Final = 0.5
"""Of a reply's words that may be wrong, missing or too many; beyond, it is not recognised."""
_NEARLY: Final = 0.34
"""Of the words of a sentence that may be wrong in one that was said as a whole."""
_PLAIN_S: Final = 0.32
"""For each word of a reply that is none of the world's."""


def plain(words: Iterable[str]) -> list[str]:
    """Words in small letters without punctuation, repeated ones counted once."""
    return [word for word in once(bare(each) for each in words) if word]


class Replies:
    """All sentences of a world's agent."""

    def __init__(self, world: World) -> None:
        self._length = {text: speech.end for text, speech in agent_speech(world).items()}
        self._plain = {text: plain(text.split()) for text in world.agent_texts}
        self._family = _families(world)
        self._prompts = frozenset({world.still_there.say, world.silent_again.say})

    def family(self, text: str) -> str:
        """What is the same for two fillings of one reply."""
        return self._family.get(text, text)

    def length_s(self, text: str) -> float:
        """How long the agent takes to say a text; a guess where it is none of the world's."""
        return self._length.get(text, _PLAIN_S * len(text.split()))

    def closest(self, words: Sequence[str], *, cut: bool = False, also: str | None = None) -> str | None:
        """The sentence that ``words`` begin with, or where they were ``cut``, that begins with them.

        None where none is near, or two that mean different things are equally near. ``also``: one more to choose from.
        """
        said = plain(words)
        if not said or (cut and len(said) < 2):
            return None
        known = self._plain if also is None or also in self._plain else {**self._plain, also: plain(also.split())}
        ranked = sorted(
            (_distance(said, text, cut=cut) / (len(said) if cut else len(text)), each) for each, text in known.items()
        )
        wrong, best = ranked[0]
        if wrong > _ALIKE:
            return None
        if any(each[0] == wrong and self.family(each[1]) != self.family(best) for each in ranked[1:]):
            return None
        return best

    def is_prompt(self, words: Sequence[str]) -> bool:
        """Whether these are what the agent says to callers who are silent, which is no answer."""
        return self.closest(words) in self._prompts

    def is_whole(self, words: Sequence[str]) -> bool:
        """Whether these are one of the sentences, from its beginning to its end."""
        said = plain(words)
        return bool(said) and said in self._plain.values()

    def is_cut(self, words: Sequence[str]) -> bool:
        """Whether these are the beginning of some sentence, and no whole one."""
        said = plain(words)
        return (
            bool(said) and not self.is_whole(words) and any(text[: len(said)] == said for text in self._plain.values())
        )

    def is_one(self, words: Sequence[str]) -> bool:
        """Whether these are one sentence, give or take some words: neither broken off nor followed by another."""
        said = plain(words)
        nearest = min(_edits(said, text)[-1] / len(text) for text in self._plain.values())
        return nearest <= _NEARLY and not self.is_cut(words) and not self.goes_beyond(words)

    def goes_beyond(self, words: Sequence[str]) -> bool:
        """Whether a whole sentence is followed by more that is not part of another one."""
        said = plain(words)
        if any(text[: len(said)] == said for text in self._plain.values()):
            return False
        return any(len(text) < len(said) and said[: len(text)] == text for text in self._plain.values())

    def left_s(self, words: Sequence[str], expected: str | None, spoken_s: float) -> float:
        """How much of a reply is left after ``spoken_s`` of it: of the expected one, if it began like that."""
        said = plain(words)
        begun = [each for each, text in self._plain.items() if text[: len(said)] == said]
        if expected is not None and (expected in begun or not begun):
            return self.length_s(expected) - spoken_s
        return min((self.length_s(each) for each in begun), default=0.0) - spoken_s


def _families(world: World) -> dict[str, str]:
    """The unfilled reply of each sentence."""
    found: dict[str, str] = {}
    for intent in world.intents.values():
        for reply in intent.replies:
            names = [name for name in world.slots if f"<{name}>" in reply.say]
            for values in product(*(world.slots[name].values() for name in names)):
                found[fill_slots(reply.say, dict(zip(names, values, strict=True)))] = reply.say
    return found


def _distance(said: Sequence[str], text: Sequence[str], *, cut: bool) -> int:
    """Words to change to make one the beginning of the other: of ``said``, or where that was ``cut``, of ``text``."""
    return min(_edits(said, text)) if cut else min(_edits(text, said))


def _edits(one: Sequence[str], other: Sequence[str]) -> list[int]:
    """Words to change to make ``one`` each beginning of ``other``, from none of it to all (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, another in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != another))
    return row
