"""espeak-ng's words stand where they are heard."""

import numpy as np
import pytest

from model_runtime.training.recordings import Word
from model_runtime.training.synthetic.speech import LEVEL_DB, SpeechError, begin_anew, phone_labels, speak
from model_runtime.training.synthetic.voices import (
    DIALECTS,
    FAR_VARIANTS,
    HELD_DIALECT,
    HELD_VARIANTS,
    TRAIN_VARIANTS,
    Voice,
    draw_voice,
)

pytestmark = pytest.mark.peer("espeak-ng")
PLAIN = Voice("gmw/en-US+f2")
HOP = 120  # samples: 5 ms


def heard(audio: np.ndarray) -> tuple[float, float]:
    """When something is heard, told by its loudness alone."""
    loud = np.abs(audio[: len(audio) // HOP * HOP]).reshape(-1, HOP).max(1)
    there = np.flatnonzero(loud > 0.04 * np.sort(loud)[-3])
    return there[0] * HOP / 24_000, (there[-1] + 1) * HOP / 24_000


@pytest.mark.parametrize("name", ["f2", "m3", "klatt2", "adam", "steph"])
def test_an_isolated_word_is_where_it_is_heard(name: str) -> None:
    """Starts are within 30 ms of what loudness tells, and 9 of 10 ends, the others ringing on; at any warp."""
    starts, ends = [], []
    for text in ("morning", "saturday", "evening", "hours", "yes", "seven", "menu", "wheelchair", "friday", "parking"):
        for warp in (0.85, 1.0, 1.2):
            speech = speak(text, Voice(f"gmw/en-US+{name}", warp=warp, tilt_db=3, peak_db=-4))
            (word,) = speech.words
            start, end = heard(speech.audio)
            starts.append(abs(word.start - start))
            ends.append(abs(word.end - end))
    assert max(starts) < 0.03
    assert float(np.quantile(ends, 0.9)) < 0.03
    assert max(ends) < 0.05
    assert float(np.median([*starts, *ends])) < 0.005


def test_a_word_in_a_sentence_is_where_it_is_alone() -> None:
    """Cut out of a sentence at its times, each word has sound, and pauses have none."""
    speech = speak("We are closed, but tomorrow we open at nine.", PLAIN)
    assert [word.text for word in speech.words] == speech.text.split()
    for word, after in zip(speech.words, speech.words[1:], strict=False):
        assert word.start < word.end <= after.start + 1e-9
        assert np.abs(speech.audio[round(word.start * 24_000) : round(word.end * 24_000)]).max() > 0.02
    pause = speech.audio[round((speech.words[2].end + 0.03) * 24_000) : round((speech.words[3].start - 0.01) * 24_000)]
    assert len(pause) > 1200
    assert np.abs(pause).max() < 0.01


@pytest.mark.parametrize(
    "text",
    [
        "it is on the left of the road",
        "mm-hmm, uh huh",
        "we don't do that, o'clock",
        "at nine one one",
        "  two   spaces ",
    ],
)
def test_every_word_has_its_time(text: str) -> None:
    """Words that espeak-ng runs together, or in which it sees several, have one time each, in order."""
    speech = speak(text, PLAIN)
    assert [word.text for word in speech.words] == text.split()
    times = [time for word in speech.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.end - word.start > 0.02 for word in speech.words)


def test_speech_is_the_same_each_time_and_at_its_level() -> None:
    """Begun anew, espeak-ng says a sentence as before, to the sample, whatever it has said; all voices are as loud."""
    begin_anew()
    first = speak("good morning", PLAIN)
    speak("something else", Voice("gmw/en+m3", rate=120, pitch=10, warp=1.1))
    begin_anew()
    again = speak("good morning", PLAIN)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.words == again.words
    loud = first.audio[np.abs(first.audio) > 0.02]
    assert 20 * np.log10(np.sqrt(np.mean(loud**2))) == pytest.approx(LEVEL_DB, abs=3)


def test_phones_label_frames() -> None:
    """The phone in the middle of a frame is its label."""
    phones = (Word("a", 0.0, 0.17), Word("b", 0.17, 0.32))
    assert phone_labels(phones, 6, 0.08) == ["a", "a", "b", "b", "_", "_"]


def test_voices_that_are_held_out_are_never_trained_on() -> None:
    """Splits share no variant, a third of the held voices has a dialect of its own, and draws are seeded."""
    assert not set(TRAIN_VARIANTS) & {*HELD_VARIANTS, *FAR_VARIANTS}
    assert not set(HELD_VARIANTS) & set(FAR_VARIANTS)
    assert len(TRAIN_VARIANTS) >= 60
    random = np.random.default_rng(0)
    trained = [draw_voice("train", random) for _ in range(500)]
    held = [draw_voice("held", random) for _ in range(300)]
    assert not any(voice.name.startswith(HELD_DIALECT) for voice in trained)
    assert not {v.name.split("+")[1] for v in trained} & {v.name.split("+")[1] for v in held}
    assert sum(voice.name.startswith(HELD_DIALECT) for voice in held) == pytest.approx(100, abs=30)
    assert draw_voice("far", np.random.default_rng(3)) == draw_voice("far", np.random.default_rng(3))


def test_every_voice_speaks() -> None:
    """Each variant and dialect that is named is one that espeak-ng has: none sounds like another."""
    names = [f"gmw/en-US+{each}" for each in (*TRAIN_VARIANTS, *HELD_VARIANTS, *FAR_VARIANTS)]
    names += [f"{each}+f2" for each in (*DIALECTS, HELD_DIALECT) if each != "gmw/en-US"]
    sounds = {speak("are you there today", Voice(name)).audio.tobytes() for name in names}
    assert len(sounds) >= len(names) - 3
    with pytest.raises(SpeechError, match="no voice"):
        speak("hello", Voice("nowhere"))
