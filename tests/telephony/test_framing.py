import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from config.audio import FRAME_SAMPLES
from telephony.framing import Framer


@given(st.lists(st.integers(0, 5_000), max_size=12))
def test_frames_are_the_stream_in_order(sizes: list[int]) -> None:
    """Whatever the blocks, the frames are the stream cut every 1,920 samples, with less than a frame held back."""
    stream = (np.arange(sum(sizes)) % 30_000).astype(np.int16)
    framer, frames, at = Framer(), [], 0
    for size in sizes:
        frames += framer.push(stream[at : at + size])
        at += size
    assert all(frame.shape == (FRAME_SAMPLES,) for frame in frames)
    assert len(frames) == stream.size // FRAME_SAMPLES
    assert np.array_equal(np.concatenate([np.empty(0, np.int16), *frames]), stream[: len(frames) * FRAME_SAMPLES])


def test_a_block_of_one_frame_is_passed_on_as_it_is() -> None:
    """The line's 80 ms block is the frame: it is not copied."""
    block = np.ones(FRAME_SAMPLES, np.int16)
    assert Framer().push(block)[0] is block
