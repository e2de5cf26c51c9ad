"""A worker's Prometheus metrics."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class WorkerMetrics:
    """Counts of ended claims; seconds busy, seconds warm, and seconds of each stage of loading."""

    def __init__(self, base_model: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"base_model": base_model}
        names = ["base_model"]
        self._claims = Counter(
            "maitre_worker_claims_total",
            "Claims that have ended, by how they ended",
            [*names, "end"],
            registry=self.registry,
        )
        self._busy = Counter(
            "maitre_worker_busy_seconds_total", "Seconds with a run", names, registry=self.registry
        )
        self._warm = Gauge(
            "maitre_worker_warm_seconds",
            "Seconds since it was ready",
            names,
            registry=self.registry,
        )
        self._load = Gauge(
            "maitre_worker_load_seconds",
            "Seconds to get ready, by stage",
            [*names, "stage"],
            registry=self.registry,
        )
        self._ready_s: float | None = None

    def loaded(self, load_s: dict[str, float]) -> None:
        """Record that the worker is ready, after these seconds by stage."""
        self._ready_s = time.monotonic()
        for stage, seconds in load_s.items():
            self._load.labels(**self._labels, stage=stage).set(seconds)

    def claim_ended(self, end: str, busy_s: float) -> None:
        """Count a claim that has ended: `finished`, `preempted`, `lost` or `broken`."""
        self._claims.labels(**self._labels, end=end).inc()
        self._busy.labels(**self._labels).inc(busy_s)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        if self._ready_s is not None:
            self._warm.labels(**self._labels).set(time.monotonic() - self._ready_s)
        return generate_latest(self.registry)
