"""Counters and histograms under TF Serving's names, for Prometheus."""

from __future__ import annotations

import prometheus_client as prometheus

# TF Serving's: microseconds, growing by 1.8 from 10.
_BUCKETS = tuple(10 * 1.8**i for i in range(33))


class Metrics:
    """What the server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            ":tensorflow:serving:request_count",
            "Requests by model, version, transport and gRPC's name of the status.",
            ("model_name", "version", "entrypoint", "status"),
            registry=self.registry,
        )
        self.latency = prometheus.Histogram(
            ":tensorflow:serving:request_latency",
            "Microseconds from a request's arrival to its answer, waiting included.",
            ("model_name", "API", "entrypoint"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.runtime = prometheus.Histogram(
            ":tensorflow:serving:runtime_latency",
            "Microseconds in the model.",
            ("model_name", "API", "runtime"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.waiting = prometheus.Gauge(
            ":seesaw:serving:waiting_requests", "Requests that wait for their turn.", registry=self.registry
        )
        self.versions = prometheus.Gauge(
            ":seesaw:serving:label_version",
            "Version behind a label; 'latest' is the highest in memory.",
            ("model_name", "label"),
            registry=self.registry,
        )

    def text(self, waiting: int, serving: dict[str, dict[str, int]]) -> bytes:
        """The metrics in Prometheus' text format."""
        self.waiting.set(waiting)
        self.versions.clear()
        for model, labels in serving.items():
            for label, version in labels.items():
                self.versions.labels(model, label).set(version)
        # The library ends every counter's name in _total; TF Serving does not.
        return prometheus.generate_latest(self.registry).replace(b"request_count_total", b"request_count")
