import time
from pathlib import Path

import numpy as np
import pytest

from agent.measures.speech import Segment, Speech, levels
from config.audio import FRAME_S, FRAME_SAMPLES
from tests.agent.measures.scene import Signal, about, frames, noise, spoken, voice


def heard(signal: Signal) -> list[tuple[float, float]]:
    """The segments of one side."""
    speech = Speech()
    for number, frame in enumerate(frames(signal)):
        speech.hear(levels(frame), number * FRAME_S)
    speech.close()
    return list(speech.segments)


def silence(seconds: float) -> Signal:
    """Digital silence."""
    return np.zeros(round(seconds * 24_000))


def test_a_segment_lies_where_the_sound_is() -> None:
    """A voice at any level a telephone has gives one segment, exact to 40 ms, wherever it lies between two blocks."""
    for dbfs in (-30.0, -20.0, -10.0):
        for start_s in (1.0, 1.013, 1.05):
            sound = np.concatenate([silence(start_s), voice(1.5, dbfs), silence(1)])
            ((start, end),) = heard(sound + noise(sound.size / 24_000, -65))
            assert start == about(start_s)
            assert end == about(start_s + 1.5)


@pytest.mark.peer("espeak-ng")
@pytest.mark.parametrize("text", ["Good morning, how can I help you?", "Please tell me my balance.", "Stop!"])
def test_spoken_words_are_found(text: str, tmp_path: Path) -> None:
    """Words begin and end where they do, to 40 ms, over line noise at -50 dBFS; at -30 dBFS they are found too."""
    signal, begins, ends = spoken(text, tmp_path)
    line = np.concatenate([silence(1), signal, silence(1)])
    segments = heard(line + noise(line.size / 24_000, -50))
    assert segments[0][0] == about(1 + begins)
    assert segments[-1][1] == about(1 + ends)
    quiet = line * 10 ** (-6 / 20)
    assert sum(end - start for start, end in heard(quiet + noise(line.size / 24_000, -50))) > 0.6 * (ends - begins)


def test_line_noise_is_no_speech() -> None:
    """Noise at -50 dBFS from the first block on, or beginning in mid-call, is never speech."""
    assert heard(noise(20, -50)) == []
    assert heard(np.concatenate([silence(5), noise(10, -50), silence(2), noise(10, -50)])) == []


def test_loud_noise_becomes_the_floor() -> None:
    """Noise at -38 dBFS counts as speech for less than 10 s, and speech 18 dB above it is found in it."""
    sound = noise(20, -38)
    sound[12 * 24_000 : 14 * 24_000] += voice(2, -20)
    segments = heard(sound)
    assert segments[0][1] < 10
    ((start, end),) = segments[1:]
    assert start == about(12)
    assert end == about(14)


def test_lost_packets_do_not_make_noise_speech() -> None:
    """A known floor survives 60 ms of nothing."""
    sound = noise(40, -40)
    before = len(heard(sound[: 20 * 24_000]))
    for second in range(20, 39):
        sound[second * 24_000 : second * 24_000 + 1_440] = 0
    assert len(heard(sound)) == before


def test_a_suppressing_line_does_not_lose_its_speech() -> None:
    """Speech with digital silence between the words is heard for minutes: its floor does not creep up."""
    word = np.concatenate([voice(0.8, -26), silence(0.45)])
    assert len(heard(np.tile(word, 100))) == 100


@pytest.mark.parametrize("milliseconds", [2, 20, 40, 59])
def test_clicks_are_no_speech(milliseconds: int) -> None:
    """However loud a click of less than 60 ms is and wherever it lies, it makes no segment."""
    for offset in range(0, 1_920, 160):
        sound = silence(2)
        first = 24_000 + offset
        sound[first : first + 24 * milliseconds] = 0.5
        assert heard(sound) == []


def test_short_gaps_are_bridged_and_long_ones_not() -> None:
    """0.25 s of silence belong to the segment, 0.35 s end it."""
    sounds = {
        gap: np.concatenate([silence(0.5), voice(0.5), silence(gap), voice(0.5), silence(1)]) for gap in (0.25, 0.35)
    }
    assert len(heard(sounds[0.25])) == 1
    (_, first_end), (second_start, _) = heard(sounds[0.35])
    assert second_start - first_end == about(0.35)


def test_changes_are_told_as_they_are_known() -> None:
    """A beginning is told 0.1 s after it, an end 0.3 s after, each once."""
    speech, told = Speech(), []
    for number, frame in enumerate(frames(np.concatenate([silence(0.8), voice(0.8), silence(0.8)]))):
        if change := speech.hear(levels(frame), number * FRAME_S):
            told.append((round((number + 1) * FRAME_S, 2), change))
    assert [at for at, _ in told] == [0.96, 1.92]
    assert told[0][1] == Segment(about(0.8), None)
    assert told[1][1] == Segment(about(0.8), about(1.6))
    assert not speech.speaking


def test_time_that_is_skipped_ends_a_segment() -> None:
    """0.3 s of which nothing is known end a segment where its last sound was; less is bridged."""
    speech = Speech()
    blocks = frames(voice(0.8))
    for number, frame in enumerate(blocks):
        speech.hear(levels(frame), number * FRAME_S)
    assert speech.skip(0.16) is None
    assert speech.speaking
    assert speech.skip(0.16) == Segment(about(0.0), about(0.8))


def test_both_sides_cost_little() -> None:
    """The levels of two frames and the decisions on them take less than 200 µs (about 15 where nothing else runs)."""
    left, right = frames(voice(8)), frames(noise(8, -30))
    best = 1.0
    for _ in range(5):
        agent, caller = Speech(), Speech()
        began = time.perf_counter()
        for number in range(len(left)):
            agent.hear(levels(left[number]), number * FRAME_S)
            caller.hear(levels(right[number]), number * FRAME_S)
        best = min(best, (time.perf_counter() - began) / len(left))
    assert best < 200e-6


def test_levels_are_of_full_scale() -> None:
    """A square wave of full scale is at 0 dBFS, one of a hundredth at -40, and nothing at all is a number too."""
    square = np.tile(np.array([32767, -32767], np.int16), FRAME_SAMPLES // 2)
    assert levels(square) == pytest.approx([0.0] * 4, abs=0.01)
    assert levels((square // 100).astype(np.int16)) == pytest.approx([-40.0] * 4, abs=0.05)
    assert max(levels(np.zeros(FRAME_SAMPLES, np.int16))) < -110
