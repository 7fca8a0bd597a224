"""One conversation's tenancy of a row in the model's batch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from model_runtime.engine.model import Beginning, Samples, SamplingOptions, Tokens

MAX_FORCED_TEXTS: Final = 16
"""Texts that may wait to be said."""
INBOX_FRAMES: Final = 2
"""Latency is bounded, never queued: a third waiting frame pushes the oldest out (DESIGN.md, section 2)."""


class HeardFrame(NamedTuple):
    """A frame of the caller on its way into a step."""

    audio: Samples  # [1920]
    captured_at: float
    """The client's clock, s; carried through and never compared with ours."""
    received_at: float
    """The engine's clock, s."""


@dataclass(frozen=True, slots=True)
class SlotStep:
    """What one step did for one slot. Times are the engine's clock, s."""

    number: int
    """Counts the slot's steps from 0."""
    heard: HeardFrame
    audio: Samples  # [1920]
    text: str
    tokens: Tokens  # [K]
    started_at: float
    done_at: float
    scripted: bool = False
    caller_text: str = ""


class Tenant(Protocol):
    """Whoever holds a slot; called on the event loop."""

    def on_step(self, step: SlotStep) -> None:
        """A step of the slot is done."""

    def on_failure(self, error: Exception) -> None:
        """The model failed; the slot is gone, and nothing more will come."""


class Slot:
    """A tenancy of one row: made by ``Engine.open``, ended by ``Engine.release``, never used twice.

    The row outlives it and the next tenancy is another object, so a result that comes late finds that its slot
    no longer sits in the row. Guarded by the engine's lock.
    """

    def __init__(
        self,
        id: int,
        row: int,
        sampling: SamplingOptions,
        seed: int,
        tenant: Tenant,
        beginning: Beginning | None = None,
        on_begun: Callable[[], None] | None = None,
    ) -> None:
        self.id = id
        self.row = row
        self.sampling = sampling
        self.seed = seed
        self.tenant = tenant
        self.fresh = True
        """The row still holds what the tenant before left in it."""
        self.beginning = beginning
        self.on_begun = on_begun
        self.begun = beginning is None
        """The row holds all that the conversation begins with; before, it is not stepped."""
        past = None if beginning is None else beginning.past
        self.steps = 0 if past is None else past.steps
        self.forced: deque[str] = deque()
        """Texts to be said, which the model has not been given yet."""
        self.dropped = 0
        """Frames that never reached a step, because newer ones waited behind them."""
        self._inbox: deque[HeardFrame] = deque()

    @property
    def waiting(self) -> bool:
        """Whether a frame waits for a step."""
        return bool(self._inbox)

    def push(self, frame: HeardFrame) -> bool:
        """Put a frame into the inbox; False when the oldest one had to go for it."""
        self._inbox.append(frame)
        if len(self._inbox) <= INBOX_FRAMES:
            return True
        self._inbox.popleft()
        self.dropped += 1
        return False

    def pop(self) -> HeardFrame:
        """Take the oldest frame."""
        return self._inbox.popleft()
