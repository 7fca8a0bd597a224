"""Where the text stands beside the audio."""

from pathlib import Path

import pytest
import torch

import model_runtime.embedded
from model_runtime.lm.delays import ZERO
from model_runtime.speech_plan import plan_speech
from model_runtime.text import EPAD, PAD, TextTokenizer
from model_runtime.training.interleave import TextSettings, interleave, stream_delays, text_stream
from model_runtime.training.recordings import Word


class Spelling:
    """A tokenizer of one piece per letter: a is 10, b 11 and so on."""

    def encode(self, text: str) -> list[int]:
        """The letters."""
        return [ord(letter) - ord("a") + 10 for letter in text]


SPELLING: TextTokenizer = Spelling()  # type: ignore[assignment]


def word(text: str, frame: float) -> Word:
    """A word that starts in a frame."""
    return Word(text, frame * 0.08, frame * 0.08 + 0.1)


def test_pieces_stand_from_the_start_on_and_epad_before() -> None:
    """PAD everywhere, the pieces of a word from its start frame on, EPAD in the frame before it."""
    stream = text_stream([word("ab", 2), word("c", 6.9)], 9, SPELLING)
    assert stream.tolist() == [PAD, EPAD, 10, 11, PAD, EPAD, 12, PAD, PAD]


def test_a_word_without_room_before_it_has_no_epad() -> None:
    """In the first frame, and right after another word, there is none."""
    assert text_stream([word("ab", 0), word("c", 2)], 4, SPELLING).tolist() == [10, 11, 12, PAD]


def test_pieces_that_are_late_push_the_next_word_or_are_dropped() -> None:
    """By default all is said; as moshi-finetune has it, the next word ends the one before."""
    words = [word("abc", 0), word("de", 1)]
    assert text_stream(words, 6, SPELLING).tolist() == [10, 11, 12, 13, 14, PAD]
    assert text_stream(words, 6, SPELLING, keep_all=False).tolist() == [10, 13, 14, PAD, PAD, PAD]


def test_a_delay_moves_the_text() -> None:
    """A positive delay makes the text late; a negative one early, and words before the beginning are gone."""
    words = [word("a", 1), word("b", 4)]
    assert text_stream(words, 6, SPELLING, delay_s=0.08).tolist() == [PAD, EPAD, 10, PAD, EPAD, 11]
    assert text_stream(words, 6, SPELLING, delay_s=-0.16).tolist() == [PAD, EPAD, 11, PAD, PAD, PAD]


def test_it_is_what_the_runtime_forces() -> None:
    """The words that ``speech_plan`` places are where a recording of them would have put them."""
    tokenizer = TextTokenizer(Path(model_runtime.embedded.__file__).parent / "tiny_tokenizer.model")
    said = "good morning, how are you"
    plan = [row[0] for row in plan_speech(said, tokenizer)]
    words, at = [], 1
    for text in said.split():
        pieces = tokenizer.encode(text)
        at = next(i for i in range(at, len(plan)) if plan[i : i + len(pieces)] == pieces)
        words.append(word(text, at))
        at += len(pieces)
    assert text_stream(words, len(plan), tokenizer).tolist() == plan


def test_some_examples_have_no_text() -> None:
    """About 30 % of the examples are masked, all of their text; the codes stay."""
    codes = torch.arange(16 * 5).view(16, 5).short()
    random = torch.Generator().manual_seed(0)
    settings = TextSettings(masked=0.3)
    masked = 0
    for _ in range(400):
        tokens = interleave(codes, [word("a", 1)], SPELLING, settings, random)
        assert tokens.shape == (17, 5)
        assert tokens.dtype == torch.int64
        assert torch.equal(tokens[1:], codes.long())
        masked += bool((tokens[0] == ZERO).all())
    assert masked == pytest.approx(120, abs=30)


def test_the_delay_of_pretraining_varies() -> None:
    """With 0.6 s of jitter a word stands up to 7 frames early or late, seeded."""
    codes = torch.zeros(16, 40).short()
    random = torch.Generator().manual_seed(0)
    places = {
        int((interleave(codes, [word("a", 20)], SPELLING, TextSettings(jitter_s=0.6), random)[0] == 10).nonzero())
        for _ in range(300)
    }
    assert min(places) in (12, 13)
    assert max(places) == 27
    assert len(places) >= 14


def test_the_delays_of_streams() -> None:
    """Moshi's own: acoustic codes one frame after the semantic one, both speakers alike."""
    assert stream_delays() == (0, 0, *[1] * 7, 0, *[1] * 7)
    assert stream_delays(acoustic=2)[2] == 2
