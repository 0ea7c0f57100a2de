# SPDX-License-Identifier: Apache-2.0
"""Metrics of the server, in Prometheus's text format."""

from __future__ import annotations

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary, generate_latest

from components import features
from serving.cli import class_name
from serving.models import ModelVersions
from serving.tensors import Arrays

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServerMetrics:
    """Metrics of one server, in a registry of their own."""

    def __init__(self, models: ModelVersions):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        requests = Counter(
            "serving_requests", "Requests with a response.", ["protocol", "method", "status"], registry=registry
        )
        seconds = Histogram(
            "serving_request_seconds",
            "Time from the head of a request to its response.",
            ["protocol", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "serving_batch_images", "Images in one call of the model.", buckets=_IMAGES, registry=registry
        )
        classes = Counter("serving_predicted_class", "Predictions of a class.", ["version", "class"], registry=registry)
        confidence = Summary(
            "serving_confidence",
            "Highest probability of a prediction; its mean is sum / count.",
            ["version"],
            registry=registry,
        )
        mean = Gauge(
            "serving_mean_confidence", "Mean of the highest probabilities so far.", ["version"], registry=registry
        )
        self._waiting = Gauge(
            "serving_waiting_images", "Images in the queue and in the current call.", registry=registry
        )
        self._labels = Gauge("serving_version", "The version with this label.", ["label"], registry=registry)
        self._models = models
        self._sums: dict[int, tuple[float, int]] = {}
        # Looking up the metric of some labels takes longer than counting.
        self._request_counter = functools.lru_cache(maxsize=256)(requests.labels)
        self._seconds_histogram = functools.lru_cache(maxsize=16)(seconds.labels)
        self._confidence_summary = functools.lru_cache(maxsize=64)(confidence.labels)
        self._mean_gauge = functools.lru_cache(maxsize=64)(mean.labels)
        self._class_counter = functools.lru_cache(maxsize=4096)(classes.labels)

    def count_request(self, protocol: str, method: str, status: int, seconds: float) -> None:
        """Counts a request and its response."""
        self._request_counter(protocol, method, str(status)).inc()
        self._seconds_histogram(protocol, method).observe(seconds)

    def count_batch(self, images: int) -> None:
        """Counts a call of the model."""
        self._batches.observe(images)

    def count_predictions(self, version: int, outputs: Arrays) -> None:
        """Counts predictions, if the outputs are those of the data contract."""
        classes, probabilities = outputs.get(features.CLASS_OUTPUT), outputs.get(features.PROBABILITIES_OUTPUT)
        if classes is None or probabilities is None or probabilities.ndim != 2:
            return
        name = str(version)
        for label in classes.tolist():
            self._class_counter(name, class_name(label)).inc()
        confidences: list[float] = probabilities.max(axis=1).tolist()
        summary = self._confidence_summary(name)
        for confidence in confidences:
            summary.observe(confidence)
        total, count = self._sums.get(version, (0.0, 0))
        total, count = total + sum(confidences), count + len(confidences)
        self._sums[version] = total, count
        self._mean_gauge(name).set(total / count)

    def render(self, waiting_images: int) -> bytes:
        """Returns all metrics as text."""
        self._waiting.set(waiting_images)
        self._labels.clear()
        for label, number in self._models.labels.items():
            self._labels.labels(label).set(number)
        return generate_latest(self._registry)
