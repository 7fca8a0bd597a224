"""Where the last frames of a call spent their time, noted as they pass. Runs on the gateway's event loop.

All times are ``time.monotonic()``, one clock for every process of this machine.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from telephony.call import LineTime

FRAMES: Final = 750
"""How many frames of a call are kept: one minute."""

STAGES: Final = ("receive", "send", "worker_net", "worker_wait", "step", "answer", "playout")
"""The stages of a frame's way, in order; together they are its time from leaving the line to going out on it.

- ``receive``: from the line worker to the gateway's event loop
- ``send``: resampled and written to the model session's socket
- ``worker_net``: on the way to the model worker and back, and until the gateway's loop read the answer
- ``worker_wait``: in the slot's inbox, for the step before to end
- ``step``: the model's step
- ``answer``: resampled and handed to the line
- ``playout``: on the way to the line worker and in its playout FIFO, until the first sample went out
"""

Row = dict[str, float | int | None]
"""One frame: ``number`` (the line's block), ``at_s`` (on the call's clock), ``position`` (of the answer's first sample
in what the line was given; None where it was given none), each stage in ms (``step_ms`` and so on, None where it never
came so far), and ``total_ms``."""

_NEVER: Final = math.nan


class FrameTrace:
    """The last ``frames`` frames of one call. Each of the three methods that note takes about a microsecond.

    ``sent`` makes a new row, ``answered`` and ``said`` fill in the rest. Answers come in the order in which frames were
    sent; a frame that no model answered, or whose audio was never played, keeps its gaps.
    """

    def __init__(self, frames: int = FRAMES) -> None:
        self._frames = frames
        self._number = np.zeros(frames, np.int64)
        self._position = np.full(frames, -1, np.int64)
        (
            self._captured,
            self._received,
            self._sent,
            self._wait_ms,
            self._step_ms,
            self._answered,
            self._played,
            self._out,
        ) = np.full((8, frames), _NEVER)
        self._next = 0  # frames sent in all; the row of frame n is n % frames
        self._unanswered = 0  # the first frame whose answer may still come
        self._unsaid = 0  # the first frame whose audio may still go out

    def sent(self, time: LineTime, received_at: float, sent_at: float) -> None:
        """A frame of the caller's audio came at ``received_at`` and has been written to the model's socket."""
        row = self._next % self._frames
        self._number[row] = time.number
        self._captured[row] = time.captured_at
        self._received[row] = received_at
        self._sent[row] = sent_at
        self._answered[row] = self._played[row] = self._out[row] = _NEVER
        self._position[row] = -1
        self._next += 1

    def answered(
        self, captured_at: float, wait_ms: float, step_ms: float, answered_at: float, played_at: float, position: int
    ) -> None:
        """The model's answer to the frame captured then came, and was handed to the line.

        ``position`` is what ``Call.play`` returned; -1, as for an answer without audio: it was not played.
        """
        oldest = self._next - self._frames
        frame = self._unanswered if self._unanswered > oldest else oldest
        while frame < self._next:
            row = frame % self._frames
            frame += 1
            if self._captured[row] == captured_at:
                self._wait_ms[row] = wait_ms
                self._step_ms[row] = step_ms
                self._answered[row] = answered_at
                if position >= 0:
                    self._played[row] = played_at
                    self._position[row] = position
                self._unanswered = frame
                return

    def said(self, time: LineTime) -> None:
        """What the caller was sent during a block: fills in when each frame's first sample went out."""
        for run in time.said:
            end = run.position + run.count
            oldest = self._next - self._frames
            frame = self._unsaid if self._unsaid > oldest else oldest
            while frame < self._unanswered:
                row = frame % self._frames
                position = self._position[row]
                if position >= end:
                    break
                if position >= run.position:
                    offset = run.offset + int(position) - run.position
                    self._out[row] = time.captured_at - FRAME_S + offset / SAMPLE_RATE
                elif position >= 0 and position + FRAME_SAMPLES > run.position:
                    self._out[row] = time.captured_at - FRAME_S + run.offset / SAMPLE_RATE  # its beginning was cut out
                frame += 1
            self._unsaid = frame

    def rows(self) -> list[Row]:
        """The frames, the oldest first, as JSON has them."""
        count = min(self._next, self._frames)
        order = np.arange(self._next - count, self._next) % self._frames
        columns = self._stages(order)
        total = (self._out - self._captured)[order] * 1000
        rows: list[Row] = []
        for index, row in enumerate(order.tolist()):
            position = int(self._position[row])
            number = int(self._number[row])
            values = {f"{name}_ms": _ms(column[index]) for name, column in zip(STAGES, columns, strict=True)}
            head: Row = {"number": number, "at_s": round(number * FRAME_S, 2)}
            rows.append(
                head | {"position": None if position < 0 else position} | values | {"total_ms": _ms(total[index])}
            )
        return rows

    def _stages(self, order: np.ndarray) -> Sequence[np.ndarray]:
        """Each stage's times in ms, NaN where unknown, in the order of ``STAGES``."""
        wait, step = self._wait_ms, self._step_ms
        unknown = np.where(np.isnan(self._answered), _NEVER, 0.0)  # a row's older wait and step
        stages = (
            (self._received - self._captured) * 1000,
            (self._sent - self._received) * 1000,
            (self._answered - self._sent) * 1000 - wait - step,
            wait + unknown,
            step + unknown,
            (self._played - self._answered) * 1000,
            (self._out - self._played) * 1000,
        )
        return [stage[order] for stage in stages]


def _ms(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 3)
