"""A call for transcripts: pieces of text are played, and sent a little later, block by block."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from agent.records.timeline import Timeline
from agent.records.transcript import About, Transcript
from config.audio import FRAME_S, FRAME_SAMPLES
from telephony.call import LineTime, Said

ABOUT = About("call-1", "front-desk", "en", datetime(2026, 5, 4, 12, 30, tzinfo=UTC))
SILENT = np.zeros(FRAME_SAMPLES, np.int16)


class SpokenCall:
    """Plays one frame per block and lets the line send it 60 ms into the same block, as a real one does."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.held = False
        self._number = 0
        self._position = 0
        self._sent = 0
        """The position up to which the line has taken audio, sent or thrown away."""

    def block(self, transcript: Transcript, piece: str = "", *, scripted: bool = False) -> None:
        """80 ms: the model's frame with its piece, then the line's block."""
        self.timeline.played(self._position, SILENT)
        if piece:
            transcript.add(self._position, piece, scripted)
        self._position += FRAME_SAMPLES
        said: tuple[Said, ...] = ()
        if not self.held and self._number == self._sent == 0:
            said = (Said(1440, 0, 480),)
            self._sent = 480
        elif not self.held:
            if self._sent < self._position - FRAME_SAMPLES - 1440:  # after hold: what was thrown away
                self._sent = self._position - FRAME_SAMPLES - 1440
            said = (Said(0, self._sent, FRAME_SAMPLES),)
            self._sent += FRAME_SAMPLES
        self.timeline.advance(LineTime(self._number, 0.0, said))
        self._number += 1
        transcript.advance(self._number * FRAME_S)

    def say(self, transcript: Transcript, pieces: Sequence[str], pause: int = 0, *, scripted: bool = False) -> None:
        """One piece per block (an empty one is a frame without text), then ``pause`` blocks of silence."""
        for piece in pieces:
            self.block(transcript, piece, scripted=scripted)
        self.wait(transcript, pause)

    def wait(self, transcript: Transcript, blocks: int) -> None:
        """So many blocks in which the agent says nothing."""
        for _ in range(blocks):
            self.block(transcript)


def sent_at(block: int) -> float:
    """When the frame of a block is sent."""
    return block * FRAME_S + 0.06


def tokens(text: str) -> list[str]:
    """A text as pieces of at most three characters, each word's first with its space, as a tokenizer makes them."""
    pieces: list[str] = []
    for word in text.split():
        whole = " " + word
        pieces += [whole[i : i + 3] for i in range(0, len(whole), 3)]
    return pieces
