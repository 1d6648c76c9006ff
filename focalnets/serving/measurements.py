"""Measurements for Prometheus."""

import os

import prometheus_client
from prometheus_client import multiprocess

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measurements:
    """Counters and histograms of a server.

    With `PROMETHEUS_MULTIPROC_DIR`, the processes of a server share them.
    """

    def __init__(self):
        self.registry = prometheus_client.CollectorRegistry()
        one = {"registry": self.registry}
        self._requests = prometheus_client.Counter(
            "focalnets_requests", "Requests by endpoint and status.", ["endpoint", "status"], **one
        )
        self._seconds = prometheus_client.Histogram(
            "focalnets_request_seconds", "Time of a request.", ["endpoint"], buckets=_SECONDS, **one
        )
        self._images = prometheus_client.Counter("focalnets_images", "Computed images.", ["model"], **one)
        self._queued = prometheus_client.Histogram(
            "focalnets_queue_seconds", "Time of a request in the queue.", ["model"], buckets=_SECONDS, **one
        )
        self._batches = prometheus_client.Histogram(
            "focalnets_batch_images",
            "Images in the batch of a request.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            **one,
        )
        self._children = {}
        self.waiting = prometheus_client.Gauge(
            "focalnets_queue_requests", "Requests in the queue.", multiprocess_mode="livesum", **one
        )

    def request(self, endpoint, status, seconds):
        self._child(self._requests, endpoint, status).inc()
        self._child(self._seconds, endpoint).observe(seconds)

    def turn(self, model, queued, images):
        self._child(self._queued, model).observe(queued)
        self._child(self._batches, model).observe(images)

    def images(self, model, count):
        self._child(self._images, model).inc(count)

    def _child(self, metric, *labels):
        """`metric.labels(*labels)`, which takes a lock and several microseconds each time."""
        key = (metric, *labels)
        if key not in self._children:
            self._children[key] = metric.labels(*labels)
        return self._children[key]

    def text(self):
        """Text format of Prometheus, bytes, and its media type."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = prometheus_client.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST
