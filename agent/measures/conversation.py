"""What a conversation was like: turns, overlaps, interruptions, silence. Runs on the gateway's event loop.

It informs and steers nothing: what is known here is known from 0.1 to 0.4 s after it happened.
"""

from collections.abc import Callable
from statistics import median
from typing import Final

from agent.measures.interruption import Interruption
from agent.measures.speech import PIECE_S, Segment, Speech, levels
from config.audio import FRAME_S
from telephony.call import Frame

_OVERLAP_COUNTS_S: Final = 0.1
"""A shorter one is two turns that touch; it counts in the total alone."""
_ECHO_BELOW_DB: Final = 25.0
"""An echo canceller leaves less of the agent's voice in the caller's audio than this (ITU-T G.168 asks for 30 dB)."""
_ECHO_DECAY_DB: Final = 0.25
"""Per piece, so an echo that comes 0.4 s late is still 5 dB below where it would count."""


class ConversationMeasures:
    """Measures one conversation from what both sides sent, block by block on one clock; t = 0 is the answer.

    - A *turn gap* runs from the caller's end to the agent's start, where the agent was silent at the caller's end.
    - An *overlap* is a stretch in which both speak; it is counted from 0.1 s on.
    - A *barge-in* and a *back-channel*: see ``Interruption``.
    - *Silence* is a stretch in which nobody speaks.

    Caller's sound more than 25 dB below the agent's recent level counts as the agent's echo. ``on_barge_in(at_s,
    yielded_after_s)`` is told of each barge-in as soon as its outcome is known, None where the agent did not yield.
    Each ``block`` takes some 30 µs.
    """

    def __init__(self, on_barge_in: Callable[[float, float | None], None] | None = None) -> None:
        self.agent = Speech()
        self.caller = Speech()
        self.turn_gaps_s: list[float] = []
        self.yields_s: list[float] = []
        """How long the agent went on, for each barge-in to which it yielded."""
        self.barge_ins = 0
        self.backchannels = 0
        self.overlaps = 0
        self.overlap_s = 0.0
        self.longest_silence_s = 0.0
        self.first_response_s: float | None = None
        """From the answer to the agent's first sound."""
        self.duration_s = 0.0
        self._on_barge_in = on_barge_in
        self._agent_peak_db = -120.0
        self._answer_at_s: float | None = None  # the agent began while the caller may have been speaking still
        self._interruption: Interruption | None = None
        self._closed = False

    @property
    def quiet_s(self) -> float:
        """For how long neither side has spoken."""
        return min(self.agent_quiet_s, self.caller_quiet_s)

    @property
    def agent_quiet_s(self) -> float:
        """For how long the agent has not spoken."""
        return self.duration_s - (self.agent.heard_s or 0.0)

    @property
    def caller_quiet_s(self) -> float:
        """For how long the caller has not spoken."""
        return self.duration_s - (self.caller.heard_s or 0.0)

    @property
    def caller_has_spoken(self) -> bool:
        """Whether the caller has ever said anything."""
        return self.caller.heard_s is not None

    @property
    def caller_speaking(self) -> bool:
        """Whether the caller speaks, or did so within the last 0.3 s."""
        return self.caller.speaking

    @property
    def agent_speaking(self) -> bool:
        """Whether the agent speaks, or did so within the last 0.3 s."""
        return self.agent.speaking

    @property
    def silence_s(self) -> float:
        """For how long nobody spoke, in all; exact after ``close``."""
        return max(0.0, self.duration_s - self.agent.speech_s - self.caller.speech_s + self.overlap_s)

    def block(self, left: Frame, right: Frame, at_s: float) -> None:
        """Take in 80 ms that began at ``at_s``: what the agent sent, and the caller, each ``int16 [1920]``.

        A jump of ``at_s`` is time of which nothing is known.
        """
        missing_s = at_s - self.duration_s
        if missing_s > PIECE_S / 2:
            self.skip(missing_s)
        said = levels(left)
        peak, masks = self._agent_peak_db, []
        for level in said:
            peak = max(level, peak - _ECHO_DECAY_DB)
            masks.append(peak - _ECHO_BELOW_DB)
        self._agent_peak_db = peak
        agent = self.agent.hear(said, at_s)
        caller = self.caller.hear(levels(right), at_s, masks)
        self._advance(at_s + FRAME_S, agent, caller)

    def skip(self, seconds: float) -> None:
        """Let time pass for which no block came."""
        self._advance(self.duration_s + seconds, self.agent.skip(seconds), self.caller.skip(seconds))

    def close(self) -> None:
        """The call is over: end what goes on. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._judge(call_over=True)
        self._advance(self.duration_s, self.agent.close(), self.caller.close())
        self._silent_until(self.duration_s)

    def summary(self) -> dict[str, float | int]:
        """All of it in flat names; what there was none of is left out. Complete after ``close``."""
        spoken_s = self.agent.speech_s + self.caller.speech_s
        values: dict[str, float | int | None] = {
            "duration_s": self.duration_s,
            "first_response_s": self.first_response_s,
            "agent_speech_s": self.agent.speech_s,
            "caller_speech_s": self.caller.speech_s,
            "agent_talk_ratio": self.agent.speech_s / spoken_s if spoken_s else None,
            "silence_s": self.silence_s,
            "longest_silence_s": self.longest_silence_s,
            "turns": len(self.turn_gaps_s),
            "turn_gap_median_s": median(self.turn_gaps_s) if self.turn_gaps_s else None,
            "turn_gap_max_s": max(self.turn_gaps_s, default=None),
            "overlaps": self.overlaps,
            "overlap_s": self.overlap_s,
            "barge_ins": self.barge_ins,
            "barge_ins_yielded": len(self.yields_s),
            "barge_in_yield_median_s": median(self.yields_s) if self.yields_s else None,
            "barge_in_yield_max_s": max(self.yields_s, default=None),
            "backchannels": self.backchannels,
        }
        return {name: round(value, 3) for name, value in values.items() if value is not None}

    def _advance(self, now_s: float, agent: Segment | None, caller: Segment | None) -> None:
        """Note that it is ``now_s``, and what began or ended."""
        if agent is not None and agent.end_s is None:
            self._agent_began(agent.start_s)
        if caller is not None and caller.end_s is None:
            self._caller_began(caller.start_s)
        for ended, own, other in ((agent, self.agent, self.caller), (caller, self.caller, self.agent)):
            if ended is not None and ended.end_s is not None:
                # Where both end at once, the pair is counted with the second of them.
                twin = own is self.agent and caller is not None and caller.end_s is not None
                self._count_overlaps(ended.start_s, ended.end_s, other, skip_last=twin)
        if caller is not None and caller.end_s is not None:
            self._caller_ended(caller.end_s)
        self._judge()
        self.duration_s = max(self.duration_s, now_s)

    def _agent_began(self, start_s: float) -> None:
        self._silent_until(start_s)
        if self.first_response_s is None:
            self.first_response_s = start_s
        if self.caller.speaking:
            self._answer_at_s = start_s
        else:
            self._count_turn(start_s)

    def _caller_began(self, start_s: float) -> None:
        self._silent_until(start_s)
        if self._interruption is None:
            self._interruption = Interruption.begin(start_s, self.agent)

    def _caller_ended(self, end_s: float) -> None:
        if self._answer_at_s is not None and end_s <= self._answer_at_s:
            self._count_turn(self._answer_at_s)
        self._answer_at_s = None

    def _count_turn(self, start_s: float) -> None:
        """Count the gap before an agent's start, if the caller's end before it fell into the agent's silence."""
        if self.caller.segments:
            end_s = self.caller.segments[-1][1]
            if not self.agent.segments or self.agent.segments[-1][1] < end_s:
                self.turn_gaps_s.append(start_s - end_s)

    def _silent_until(self, start_s: float) -> None:
        """Note the silence before an onset, or before the end of the call."""
        last_s = 0.0
        for side in (self.agent, self.caller):
            if side.segments:
                last_s = max(last_s, side.segments[-1][1])
            if side.start_s is not None and side.heard_s is not None and side.start_s < start_s:
                last_s = max(last_s, side.heard_s)
        self.longest_silence_s = max(self.longest_silence_s, start_s - last_s)

    def _judge(self, *, call_over: bool = False) -> None:
        """See whether the outcome of an interruption is known now."""
        if self._interruption is None:
            return
        verdict = self._interruption.judge(self.agent, self.caller, call_over=call_over)
        if verdict is None:
            return
        onset_s, self._interruption = self._interruption.onset_s, None
        if verdict.kind == "backchannel":
            self.backchannels += 1
        elif verdict.kind == "barge_in":
            self.barge_ins += 1
            if verdict.yielded_after_s is not None:
                self.yields_s.append(verdict.yielded_after_s)
            if self._on_barge_in is not None:
                self._on_barge_in(onset_s, verdict.yielded_after_s)

    def _count_overlaps(self, start_s: float, end_s: float, other: Speech, *, skip_last: bool) -> None:
        """Count what a segment that has ended shares with the other side's finished ones: each pair once."""
        for index, (other_start_s, other_end_s) in enumerate(reversed(other.segments)):
            if other_end_s <= start_s:
                break
            if index == 0 and skip_last:
                continue
            shared_s = min(end_s, other_end_s) - max(start_s, other_start_s)
            if shared_s > 0:
                self.overlap_s += shared_s
                self.overlaps += shared_s >= _OVERLAP_COUNTS_S
