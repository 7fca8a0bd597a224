"""When the agent's voice was heard in a whole call. Pure."""

from collections.abc import Sequence

from agent.measures.speech import Speech, levels
from config.audio import FRAME_S, FRAME_SAMPLES
from telephony.call import Frame

Segments = list[tuple[float, float]]
"""Beginnings and ends in s, in order."""


def voiced(audio: Frame) -> Segments:
    """The speech in ``audio``, ``int16 [n]``: pauses of less than 0.3 s belong to it (agent/measures/speech.py)."""
    speech, segments = Speech(), []
    for number, frame in enumerate(audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)):
        ended = speech.hear(levels(frame), number * FRAME_S)
        if ended is not None and ended.end_s is not None:
            segments.append((ended.start_s, ended.end_s))
    last = speech.close()
    if last is not None and last.end_s is not None:
        segments.append((last.start_s, last.end_s))
    return segments


def joined(segments: Sequence[tuple[float, float]], pause_s: float) -> Segments:
    """Segments with no more than ``pause_s`` between them made one."""
    whole: Segments = []
    for start, end in segments:
        if whole and start - whole[-1][1] <= pause_s:
            whole[-1] = whole[-1][0], end
        else:
            whole.append((start, end))
    return whole
