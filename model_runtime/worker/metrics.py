"""What /metrics of a worker tells; read from the engine when asked for."""

from collections.abc import Callable, Iterable
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from model_runtime.engine.engine import Engine
from model_runtime.engine.step_times import BUCKETS_S


class EngineCollector(Collector):
    """The engine's figures in Prometheus' form."""

    def __init__(self, model: str, engine: Engine, audio_dropped: Callable[[], int]) -> None:
        self._model = model
        self._engine = engine
        self._audio_dropped = audio_dropped

    def collect(self) -> Iterable[Metric]:
        """Called for every scrape."""
        engine, times = self._engine, self._engine.times
        for name, text, value in (
            ("slots", "Conversations that fit.", float(engine.slots)),
            ("slots_used", "Conversations now.", float(engine.slots - engine.free)),
            ("step_p99_seconds", "99th percentile of the last 10 s of steps; NaN below 100 steps.", engine.p99_s),
        ):
            gauge = GaugeMetricFamily(f"denwa_worker_{name}", text, labels=["model"])
            gauge.add_metric([self._model], float("nan") if value is None else value)
            yield gauge
        for name, text, count in (
            ("frames_dropped", "Frames that never reached a step.", engine.frames_dropped),
            ("frames_late", "Frames whose step ended more than 80 ms after they came.", engine.frames_late),
            ("audio_dropped", "Frames sent without audio to clients that read too slowly.", self._audio_dropped()),
        ):
            counter = CounterMetricFamily(f"denwa_worker_{name}", text, labels=["model"])
            counter.add_metric([self._model], count)
            yield counter
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(times.counts)), strict=True))
        steps = HistogramMetricFamily("denwa_worker_step_seconds", "How long a step takes.", labels=["model"])
        steps.add_metric([self._model], buckets, times.total_s)
        yield steps


def registry(model: str, engine: Engine, audio_dropped: Callable[[], int]) -> CollectorRegistry:
    """The worker's own registry."""
    own = CollectorRegistry(auto_describe=False)
    own.register(EngineCollector(model, engine, audio_dropped))
    return own
