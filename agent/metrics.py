"""The gateway's figures, in Prometheus' terms."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FRAME_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 0.2, 0.5)


class Metrics:
    """Every metric the gateway exposes under /metrics; each gateway has its own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.calls_active = Gauge("denwa_calls_active", "Calls that are up or ringing.", registry=self._registry)
        self.calls = Counter("denwa_calls", "Calls that have ended.", ["result"], registry=self._registry)
        self.call_duration = Histogram(
            "denwa_call_duration_seconds",
            "From the INVITE's arrival to the end of the call.",
            buckets=(1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600),
            registry=self._registry,
        )
        self.refused = Counter(
            "denwa_calls_refused", "Calls the gateway turned away.", ["status"], registry=self._registry
        )
        self.frame_send = Histogram(
            "denwa_frame_send_seconds",
            "From a block leaving the line to its frame being sent to the model.",
            buckets=_FRAME_BUCKETS,
            registry=self._registry,
        )
        self.frame_step = Histogram(
            "denwa_frame_step_seconds",
            "From a block leaving the line to the model's step on it being done (the worker's own waiting and step).",
            buckets=_FRAME_BUCKETS,
            registry=self._registry,
        )
        self.frame_play = Histogram(
            "denwa_frame_play_seconds",
            "From a block leaving the line to the answering block going back to it.",
            buckets=_FRAME_BUCKETS,
            registry=self._registry,
        )
        self.frames_dropped = Counter(
            "denwa_frames_dropped", "The caller's frames that no model heard.", registry=self._registry
        )
        self.packets_lost = Counter(
            "denwa_rtp_packets_lost", "RTP packets of ended calls that never came.", registry=self._registry
        )
        self.underruns = Counter(
            "denwa_playout_underruns",
            "Times in ended calls that 20 ms of silence went out because no audio was there.",
            registry=self._registry,
        )
        self.model_lost = Counter(
            "denwa_model_sessions_lost", "Model sessions that broke in mid-call.", ["model"], registry=self._registry
        )

    def page(self) -> bytes:
        """Every metric in the Prometheus text format."""
        return generate_latest(self._registry)
