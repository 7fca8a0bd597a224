import numpy as np
import pytest

from agent.history import History
from model_runtime.worker.protocol import RESUME_FRAMES, RESUME_STEPS, Frame, Open, decode_from_client, encode


def answer(step: int, captured_at: float, tokens: int = 17) -> Frame:
    """What a step gives, its number in all of its tokens."""
    return Frame(b"", "", step, (step,) * tokens, captured_at, 0.0, 0.0)


def line_frame(value: int) -> np.ndarray:
    """A frame that is recognised by its samples' one value."""
    return np.full(1920, value, np.int16)


def test_what_no_step_heard_is_not_part_of_it() -> None:
    """Frames that the worker dropped, or that were on their way when it died, are left out."""
    history = History()
    for n in range(6):
        history.sent(line_frame(n), captured_at=n / 10)
    for step, n in enumerate((0, 1, 4)):
        history.answered(answer(step, n / 10))
    resume = history.resume()
    assert resume is not None
    assert resume.step == history.steps == 3
    assert np.frombuffer(resume.tokens, "<i4").reshape(-1, 17)[:, 0].tolist() == [0, 1, 2]
    assert np.frombuffer(resume.heard, np.int16)[::1920].tolist() == [0, 1, 4]

    history.sent(line_frame(9), captured_at=0.9)
    history.answered(answer(3, 0.9))
    again = history.resume()
    assert again is not None
    assert np.frombuffer(again.heard, np.int16)[::1920].tolist() == [0, 1, 4, 9]


def test_what_is_kept_has_an_end() -> None:
    """Four minutes of tokens and ten seconds of audio are kept, which a worker takes."""
    history = History()
    for n in range(RESUME_STEPS + 100):
        history.sent(line_frame(n % 1000), captured_at=float(n))
        history.answered(answer(n, float(n)))
    resume = history.resume()
    assert resume is not None
    assert len(resume.tokens) == RESUME_STEPS * 17 * 4
    assert len(resume.heard) == RESUME_FRAMES * 3840
    request = Open(1, resume=resume)
    assert decode_from_client(encode(request)) == request


@pytest.mark.parametrize("steps", [0, 1])
def test_a_conversation_that_has_hardly_begun_begins_anew(steps: int) -> None:
    """Without steps there is nothing to go on with, and a first one alone is taken as it is."""
    history = History()
    for step in range(steps):
        history.answered(answer(step, 0.0))
    assert (history.resume() is None) is (steps == 0)


def test_a_model_without_tokens_has_no_past() -> None:
    """An echo remembers nothing."""
    history = History()
    history.sent(line_frame(1), captured_at=0.0)
    history.answered(answer(0, 0.0, tokens=0))
    assert history.resume() is None


def test_forget() -> None:
    """A past that no worker takes is given up."""
    history = History()
    history.answered(answer(0, 0.0))
    history.forget()
    assert history.resume() is None
