"""What is kept of a call so that another model worker can go on with it. On the gateway's event loop.

Four minutes of tokens (17 small numbers a step) and the caller's last ten seconds, in memory alone: 0.7 MB a call.
"""

import struct
from collections import deque
from typing import Final

from model_runtime.worker.protocol import RESUME_FRAMES, RESUME_STEPS, TOKENS, Frame, Resume
from telephony.call import Frame as LineFrame

_ROW: Final = struct.Struct(f"<{TOKENS}i")
_UNANSWERED: Final = 64
"""Frames of the caller that may be on their way; the worker drops what waits longer."""


class History:
    """The last steps of one conversation."""

    def __init__(self) -> None:
        self.steps = 0
        """Steps done in all, over every worker that had the conversation."""
        self._tokens: deque[bytes] = deque(maxlen=RESUME_STEPS)
        self._heard: deque[bytes] = deque(maxlen=RESUME_FRAMES)
        self._sent: deque[tuple[float, LineFrame]] = deque(maxlen=_UNANSWERED)

    def sent(self, frame: LineFrame, captured_at: float) -> None:
        """Note 80 ms of the caller that went to the model; whether a step heard it is not known yet."""
        self._sent.append((captured_at, frame))

    def answered(self, frame: Frame) -> None:
        """Note what a step gave, and of which of the caller's frames."""
        if len(frame.tokens) != TOKENS:  # a model without tokens remembers nothing
            return
        self.steps = frame.step + 1
        self._tokens.append(_ROW.pack(*frame.tokens))
        while self._sent:
            captured_at, heard = self._sent.popleft()
            if captured_at == frame.captured_at:
                self._heard.append(heard.tobytes())
                break

    def resume(self) -> Resume | None:
        """What a worker is given to go on; None for a conversation that has hardly begun."""
        self._sent.clear()  # nobody will answer it
        if len(self._tokens) < min(self.steps, 2) or not self.steps:
            return None
        return Resume(self.steps, b"".join(self._tokens), b"".join(self._heard))

    def forget(self) -> None:
        """Begin anew: the model does not take this past."""
        self.steps = 0
        self._tokens.clear()
        self._heard.clear()
        self._sent.clear()
