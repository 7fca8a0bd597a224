"""Messages on their way to a client that may read too slowly."""

import asyncio
from collections import deque
from dataclasses import replace
from typing import Final

from model_runtime.worker.protocol import Frame, WorkerMessage

FRESH_FRAMES: Final = 2
"""Frames that wait with their audio; that of older ones is let go."""
MAX_MESSAGES: Final = 250
"""20 s of frames without audio; a client that is further behind has given up reading."""


class Outbox:
    """A bounded queue with one reader, on the event loop.

    Audio may not be late and text may, so a frame that waits too long loses its audio and keeps its text and tokens.
    """

    def __init__(self) -> None:
        self._waiting: deque[WorkerMessage] = deque()
        self._filled = asyncio.Event()
        self.audio_dropped = 0
        """Frames that went without their audio."""

    def put(self, message: WorkerMessage) -> bool:
        """Queue a message; False where the client is so far behind that the conversation has no use."""
        if len(self._waiting) >= MAX_MESSAGES:
            return False
        self._waiting.append(message)
        if len(self._waiting) > FRESH_FRAMES:
            stale = self._waiting[-1 - FRESH_FRAMES]
            if isinstance(stale, Frame) and stale.pcm:
                self._waiting[-1 - FRESH_FRAMES] = replace(stale, pcm=b"")
                self.audio_dropped += 1
        self._filled.set()
        return True

    async def get(self) -> WorkerMessage:
        """Take the oldest message, when there is one."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()
