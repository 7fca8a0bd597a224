"""Words and expressions sought in what the agent says, however its text is split. Pure.

The text comes in pieces of a sentence-piece model (" good", "by", "e", "!"), so nothing here depends on where one
ends: words are compared when they are known to be complete, expressions after every character.
"""

import unicodedata
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.actions.timed_pattern import TimedPattern
from config.actions_schema import Action

MAX_TEXT: Final = 300
"""Characters of the running text that an expression can see."""
_APOSTROPHES: Final = "'’ʼ`´"  # noqa: RUF001
_MAX_WORD: Final = 100
"""Characters after which a word counts as complete: nobody says longer ones."""


@dataclass(frozen=True, slots=True)
class Match:
    """An action that is set off: its place among the actions, and what was matched (never to be logged)."""

    action: Action
    matched: str


class Words:
    """Cuts running text into words: case, punctuation, apostrophes and repeated spaces do not matter.

    Scripts that are written without spaces have a word per character.
    """

    def __init__(self) -> None:
        self._word = ""

    def add(self, piece: str) -> list[str]:
        """The words that this piece completes."""
        done: list[str] = []
        for character in piece:
            if _alone(character):
                done += self.flush()
                done += _normal(character)
            elif character in _APOSTROPHES:
                continue
            elif _in_word(character):
                self._word += character
                if len(self._word) >= _MAX_WORD:
                    done += self.flush()
            else:
                done += self.flush()
        return done

    def flush(self) -> list[str]:
        """The word that was waiting for its end, for nothing more comes."""
        word, self._word = self._word, ""
        return _normal(word)


class _Spoken:
    """The phrases of one action. Overlapping occurrences, of whichever of its phrases, count once."""

    def __init__(self, action: Action, phrases: Iterable[str]) -> None:
        self.action = action
        self._phrases = [(phrase, tuple(_words(phrase))) for phrase in phrases]
        self.longest = max((len(words) for _, words in self._phrases), default=0)
        self._free = 0

    def found(self, last: list[str]) -> str | None:
        """The phrase that ends with the newest word; ``last`` are the words so far, as many as are kept."""
        self._free += 1
        for phrase, words in self._phrases:
            if words and len(words) <= self._free and tuple(last[-len(words) :]) == words:
                self._free = 0
                return phrase
        return None


class _Running:
    """One action's expression over the running text up to its last complete word. No character is matched twice.

    It is searched for at every character, for ``TimedPattern``'s sake; what is found counts at the ends of words alone.
    """

    def __init__(self, action: Action, pattern: str) -> None:
        self.action = action
        self._pattern = TimedPattern(action.name, pattern)
        self._text = ""
        self._from = 0

    def add(self, character: str) -> list[str]:
        """What is found once this character has ended a word."""
        self._text += character
        if len(self._text) > MAX_TEXT:
            cut = len(self._text) - MAX_TEXT
            self._text = self._text[cut:]
            self._from = max(self._from - cut, 1)  # ^ and \b still see that something is before it
        if _alone(character) or not (_in_word(character) or character in _APOSTROPHES):
            return self._found()
        self._pattern.search(self._text, self._from)
        return []

    def flush(self) -> list[str]:
        """What is found, for nothing more comes and the last word is complete."""
        return self._found()

    def _found(self) -> list[str]:
        found = []
        while (match := self._pattern.search(self._text, self._from)) and match.end() > match.start():
            found.append(match[0])
            self._from = match.end()
        return found


class Phrases:
    """The phrases and expressions of an agent's actions, sought in all that it says from now on."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self._spoken: list[_Spoken] = []
        self._running: list[_Running] = []
        for action in actions:
            if action.when.agent_says:
                self._spoken.append(_Spoken(action, action.when.agent_says))
            if action.when.agent_says_regex:
                self._running.append(_Running(action, action.when.agent_says_regex))
        self._words = Words()
        self._last: deque[str] = deque(maxlen=max((each.longest for each in self._spoken), default=0))

    def __bool__(self) -> bool:
        return bool(self._spoken or self._running)

    def heard(self, piece: str) -> list[Match]:
        """What a piece of the agent's text sets off, each occurrence once."""
        found = []
        for character in piece:
            found += self._spoken_in(self._words.add(character))
            found += [Match(each.action, text) for each in self._running for text in each.add(character)]
        return found

    def flush(self) -> list[Match]:
        """What the end of the text sets off, after a pause in it: the last word is complete."""
        found = self._spoken_in(self._words.flush())
        return found + [Match(each.action, text) for each in self._running for text in each.flush()]

    def _spoken_in(self, words: list[str]) -> list[Match]:
        found = []
        for word in words:
            self._last.append(word)
            last = list(self._last)
            found += [Match(each.action, phrase) for each in self._spoken if (phrase := each.found(last)) is not None]
        return found


def _words(text: str) -> list[str]:
    words = Words()
    return words.add(text) + words.flush()


def _normal(word: str) -> list[str]:
    """A word in the form in which it is compared; none where nothing is left of it."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    kept = "".join(character for character in folded if _in_word(character))
    return [kept] if kept else []


def _in_word(character: str) -> bool:
    """Letters, digits and what is written on top of them."""
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _alone(character: str) -> bool:
    """Han, Hiragana, Katakana: written without spaces."""
    return "\u3041" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or character >= "\U00020000"
