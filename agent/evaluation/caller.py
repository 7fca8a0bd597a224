"""A simulated caller on the line: what comes out of its mouth next, after all that it has heard. Pure.

Frame n of the mouth is made of what was heard in the frames before it, as with people: ``speak``, then ``hear``, for
each frame of 80 ms. Time is the caller's: 0 is when the call is up.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.evaluation.ear import QUIET_S, Ear
from agent.evaluation.plan import Cue, Plan, Sound
from agent.evaluation.replies import Replies
from config.audio import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE
from model_runtime.training.resample import Audio
from telephony.call import Frame

_PATIENCE_S: Final = 12.0
"""A caller waits so long for an agent that does not end, and then speaks all the same."""


@dataclass(frozen=True)
class Done:
    """A cue that came to pass, or why it did not."""

    cue: Cue
    at_s: float
    """When its sound began to be sent, or it was left out."""
    left_out: str = ""
    over_agent: bool = False
    """Said though the agent did not end."""

    @property
    def onset_s(self) -> float:
        """When the first word began."""
        return self.at_s + (self._sound.onset_s if self._sound else 0.0)

    @property
    def end_s(self) -> float:
        """When the last word ended."""
        return self.at_s + (self._sound.end_s if self._sound else 0.0)

    @property
    def _sound(self) -> Sound | None:
        return None if self.left_out else self.cue.sound


class Caller:
    """Plays a plan."""

    def __init__(self, plan: Plan, replies: Replies, *, reply_within_s: float, listen_s: float, max_s: float) -> None:
        self.done: list[Done] = []
        self.over = False
        """Whether it has nothing more to say and has heard what came of it: it will hang up."""
        self.ear = Ear()
        self.keys: list[str] = []
        """Keys that are to be pressed now; whoever can takes them out."""
        self._cues = deque(plan.cues)
        self._replies = replies
        self._reply_within_s, self._listen_s, self._max_s = reply_within_s, listen_s, max_s
        self._asked: Done | None = None  # what wants an answer
        self._since_s = 0.0  # when the cue that is next became the next
        self._free_s = 0.0  # the end of the last sound or silence of its own
        self._sounds: deque[tuple[int, Sound]] = deque()  # by their first sample
        self._frame = 0

    def speak(self) -> Frame:
        """The next frame of the mouth, ``int16 [1920]``."""
        first = self._frame * FRAME_SAMPLES
        self._decide((self._frame + 1) * FRAME_S)
        mouth = np.zeros(FRAME_SAMPLES, np.float32)
        for start, sound in self._sounds:
            _mix(mouth, sound, start - first)
        while self._sounds and self._sounds[0][0] + len(self._sounds[0][1].audio) <= first + FRAME_SAMPLES:
            self._sounds.popleft()
        self._frame += 1
        return np.clip(np.round(mouth * 32_767), -32_768, 32_767).astype(np.int16)

    def hear(self, frame: Frame, text: str = "") -> None:
        """The frame of the agent, ``int16 [1920]``, that was heard while the last one was spoken."""
        self.ear.hear(frame, text)

    def _decide(self, until_s: float) -> None:
        """Begin whatever is due before the end of this frame."""
        while self._cues and not self._busy(until_s):
            cue = self._cues[0]
            if cue.until_s is not None and self.ear.now_s >= cue.until_s:
                self._cues.popleft()
                continue
            due_s, left_out = self._due(cue)
            if due_s is None or due_s >= until_s:
                break
            self._cues.popleft()
            self._begin(cue, max(due_s, self.ear.now_s), left_out)
        if not self._cues and not self._busy(until_s):
            self.over = self.over or self._has_listened()
        self.over = self.over or until_s >= self._max_s

    def _busy(self, until_s: float) -> bool:
        """Whether something of its own still sounds."""
        return bool(self._sounds) and self.done[-1].end_s > until_s

    def _begin(self, cue: Cue, at_s: float, left_out: str) -> None:
        over_agent = cue.kind == "say" and self.ear.speaking
        done = Done(cue, at_s, left_out, over_agent)
        self.done.append(done)
        self._since_s = done.end_s
        if left_out:
            return
        if cue.kind != "wait":
            self._free_s = done.end_s
        if cue.sound is not None:
            self._sounds.append((round(at_s * SAMPLE_RATE), cue.sound))
        if cue.is_turn:
            self._asked = done
        self.keys.extend(cue.keys)

    def _due(self, cue: Cue) -> tuple[float | None, str]:
        """When a cue is due, None while that is not known, and why it is left out, if it is."""
        now_s, ear = self.ear.now_s, self.ear
        if cue.kind == "silence":
            over_s = self._since_s + cue.seconds
            return (now_s, "") if now_s >= over_s else (None, "")
        if cue.kind == "wait":
            return (now_s, "") if self._answered() or now_s >= self._since_s + cue.seconds else (None, "")
        if cue.kind in ("interrupt", "backchannel") or (cue.kind == "noise" and cue.in_speech):
            return self._due_in_speech(cue)
        if self._answered() or self._nobody_answers():
            return max(ear.heard_s, self._free_s) + cue.after_s, ""
        if now_s >= max(self._ended_s, self._free_s) + _PATIENCE_S:
            return now_s, ""
        return None, ""

    def _due_in_speech(self, cue: Cue) -> tuple[float | None, str]:
        began_s = self.ear.began_after(self._asked_s)
        if began_s is None:
            gone = self._nobody_answers() or self.ear.now_s >= self._ended_s + _PATIENCE_S
            return (self.ear.now_s, "no reply") if gone else (None, "")
        due_s = began_s + cue.after_s
        if self._answered():
            return self.ear.now_s, "the reply was over"
        if not self.ear.speaking or due_s >= self.ear.now_s + FRAME_S:
            return None, ""  # where it pauses, the caller waits
        expected = self._asked.cue.reply if self._asked else None
        left_s = self._replies.left_s(
            self.ear.words.since(self._asked_s), expected, max(due_s, self.ear.now_s) - began_s
        )
        return (due_s, "") if left_s >= cue.left_s else (self.ear.now_s, "too little of the reply was left")

    @property
    def _asked_s(self) -> float:
        """When what wants an answer began; before the call where the greeting is awaited."""
        return self._asked.onset_s if self._asked else -1.0

    @property
    def _ended_s(self) -> float:
        return self._asked.end_s if self._asked else 0.0

    def _answered(self) -> bool:
        """Whether the agent has begun to speak since it was asked, and has ended."""
        began_s = self.ear.began_after(self._asked_s)
        if began_s is None or self.ear.speaking or self.ear.now_s < self._ended_s:
            return False
        return self.ear.quiet_s >= QUIET_S or self._replies.is_whole(self.ear.words.since(self._asked_s))

    def _nobody_answers(self) -> bool:
        if self.ear.speaking or self.ear.began_after(self._asked_s) is not None:
            return False
        return self.ear.now_s - max(self._ended_s, self.ear.heard_s) >= self._reply_within_s

    def _has_listened(self) -> bool:
        """Whether what was said last has been answered, or will not be, for some time."""
        quiet_from_s = max(self.ear.heard_s, self._free_s)
        if self._answered() or self._nobody_answers():
            return self.ear.now_s >= quiet_from_s + self._listen_s
        return self.ear.now_s >= self._free_s + _PATIENCE_S + self._listen_s


def _mix(mouth: Audio, sound: Sound, at: int) -> None:
    """Add to ``mouth [1920]`` what of a sound lies there, ``at`` being its first sample relative to the frame's."""
    first, last = max(0, at), min(len(mouth), at + len(sound.audio))
    if first < last:
        mouth[first:last] += sound.audio[first - at : last - at]
