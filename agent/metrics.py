"""The gateway's figures, in Prometheus' terms."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.events.events import Events
from agent.measures.conversation_metrics import ConversationMetrics
from agent.records.recorder import Recorder
from agent.store.store import Store

_FRAME_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 0.2, 0.5)


class _Kept(Collector):
    """The figures of what is kept, read when somebody asks."""

    def __init__(self, store: Store, events: Events, recorder: Recorder) -> None:
        self._store = store
        self._events = events
        self._recorder = recorder

    def collect(self) -> Iterator[Metric]:
        """Prometheus asks."""
        yield GaugeMetricFamily(
            "denwa_store_spool_records", "Records that the database does not have yet.", self._store.spool_backlog
        )
        yield GaugeMetricFamily(
            "denwa_store_up", "Whether the database takes records.", float(self._store.unavailable is None)
        )
        yield CounterMetricFamily(
            "denwa_recording_blocks_dropped", "Blocks of 80 ms that the disk was too slow for.", self._recorder.dropped
        )
        yield CounterMetricFamily("denwa_recordings_failed", "Recordings that the disk failed.", self._recorder.failed)
        waiting = GaugeMetricFamily("denwa_webhook_waiting", "Events that wait for a receiver.", labels=["receiver"])
        for receiver, count in self._events.webhooks.waiting.items():
            waiting.add_metric([receiver], count)
        yield waiting
        events = CounterMetricFamily(
            "denwa_webhook_events", "Events to receivers, by what became of them.", labels=["receiver", "result"]
        )
        for receiver, figures in self._events.webhooks.figures.items():
            for result, count in asdict(figures).items():
                events.add_metric([receiver, result], count)
        yield events


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

        self.actions = Counter(
            "denwa_actions", "Actions that ran, by how that went.", ["action", "result"], registry=self._registry
        )
        self.transfers = Counter("denwa_transfers", "Transfers, by how they went.", ["result"], registry=self._registry)
        self.alerts = Counter(
            "denwa_alerts", "What somebody should look into, by kind.", ["kind"], registry=self._registry
        )
        self.reloads = Counter(
            "denwa_reloads", "Times the configuration was read again.", ["result"], registry=self._registry
        )
        self.generation = Gauge(
            "denwa_configuration_generation", "The configuration's generation for new calls.", registry=self._registry
        )
        self.conversation = ConversationMetrics(self._registry)

    def follow(self, store: Store, events: Events, recorder: Recorder) -> None:
        """Show the figures that these keep themselves."""
        self._registry.register(_Kept(store, events, recorder))

    def page(self) -> bytes:
        """Every metric in the Prometheus text format."""
        return generate_latest(self._registry)
