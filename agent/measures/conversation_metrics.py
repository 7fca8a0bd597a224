"""The conversations' figures in Prometheus' terms: part of the gateway's /metrics."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from agent.measures.conversation import ConversationMeasures

_TURN_S: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_YIELD_S: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2, 1.6, 2.0, 3.0)
_SILENCE_S: Final = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 60.0)


class ConversationMetrics:
    """Counts what ended conversations were like, by agent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"denwa_{name}", text, ["agent"], buckets=buckets, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"denwa_{name}", text, ["agent", *labels], registry=registry)

        self._first_response = histogram(
            "first_response_seconds", "From the answer to the agent's first sound.", _TURN_S
        )
        self._turn_gap = histogram("turn_gap_seconds", "From the caller's end to the agent's start.", _TURN_S)
        self._yield = histogram(
            "barge_in_yield_seconds", "From the caller's interruption to the agent's end, where it yielded.", _YIELD_S
        )
        self._longest_silence = histogram(
            "longest_silence_seconds", "The longest silence of each conversation.", _SILENCE_S
        )
        self._talk_ratio = histogram(
            "agent_talk_ratio", "The agent's share of each conversation's speech.", tuple(n / 10 for n in range(1, 11))
        )
        self._barge_ins = counter("barge_ins", "Interruptions by the caller, by whether the agent yielded.", "yielded")
        self._backchannels = counter("backchannels", "Short words of callers while the agent spoke.")
        self._overlaps = counter("overlaps", "Stretches in which both spoke.")
        self._overlap_s = counter("overlap_seconds", "Time in which both spoke.")
        self._speech_s = counter("speech_seconds", "Time in which one side spoke.", "speaker")
        self._silence_s = counter("silence_seconds", "Time in which nobody spoke.")
        self._conversation_s = counter("conversation_seconds", "Time from the answer to the end.")
        self._unheard = counter(
            "calls_agent_unheard", "Answered calls in which the agent was never heard, though the caller spoke."
        )

    def observe(self, agent: str, measures: ConversationMeasures) -> None:
        """Count one conversation, once it is closed."""
        if measures.first_response_s is not None:
            self._first_response.labels(agent).observe(measures.first_response_s)
        elif measures.caller_has_spoken:
            self._unheard.labels(agent).inc()
        for gap_s in measures.turn_gaps_s:
            self._turn_gap.labels(agent).observe(gap_s)
        for yield_s in measures.yields_s:
            self._yield.labels(agent).observe(yield_s)
        self._longest_silence.labels(agent).observe(measures.longest_silence_s)
        if spoken_s := measures.agent.speech_s + measures.caller.speech_s:
            self._talk_ratio.labels(agent).observe(measures.agent.speech_s / spoken_s)
        self._barge_ins.labels(agent, "yes").inc(len(measures.yields_s))
        self._barge_ins.labels(agent, "no").inc(measures.barge_ins - len(measures.yields_s))
        self._backchannels.labels(agent).inc(measures.backchannels)
        self._overlaps.labels(agent).inc(measures.overlaps)
        self._overlap_s.labels(agent).inc(measures.overlap_s)
        self._speech_s.labels(agent, "agent").inc(measures.agent.speech_s)
        self._speech_s.labels(agent, "caller").inc(measures.caller.speech_s)
        self._silence_s.labels(agent).inc(measures.silence_s)
        self._conversation_s.labels(agent).inc(measures.duration_s)
