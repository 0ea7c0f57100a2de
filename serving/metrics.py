# SPDX-License-Identifier: Apache-2.0
"""What the server counts, in Prometheus's text format."""

from __future__ import annotations

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary, generate_latest

from components import features
from serving.models import Models
from serving.savedmodel import Arrays

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, models: Models):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "serving_requests", "Requests answered.", ["protocol", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "serving_request_seconds",
            "Time from the head of a request to its answer.",
            ["protocol", "method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "serving_batch_images", "Images in one call of the model.", buckets=_IMAGES, registry=registry
        )
        self._classes = Counter("serving_predicted_class", "Predictions.", ["version", "class"], registry=registry)
        self._confidence = Summary(
            "serving_confidence",
            "Highest probability of a prediction; its mean is sum / count.",
            ["version"],
            registry=registry,
        )
        self._mean = Gauge(
            "serving_mean_confidence", "Mean of the highest probabilities so far.", ["version"], registry=registry
        )
        self.waiting = Gauge("serving_waiting_images", "Images that wait or are being looked at.", registry=registry)
        self._versions = Gauge("serving_version", "The version that bears a label.", ["label"], registry=registry)
        self._models = models
        self._sums: dict[int, tuple[float, int]] = {}
        # Looking up the counter of some labels costs more than counting.
        self._request_counter = functools.lru_cache(maxsize=256)(self._requests.labels)
        self._seconds_histogram = functools.lru_cache(maxsize=16)(self._seconds.labels)
        self._confidence_summary = functools.lru_cache(maxsize=64)(self._confidence.labels)
        self._mean_gauge = functools.lru_cache(maxsize=64)(self._mean.labels)
        self._class_counter = functools.lru_cache(maxsize=4096)(self._classes.labels)

    def request(self, protocol: str, method: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self._request_counter(protocol, method, str(status)).inc()
        self._seconds_histogram(protocol, method).observe(seconds)

    def batch(self, rows: int) -> None:
        """Counts a call of the model."""
        self._batches.observe(rows)

    def predictions(self, version: int, outputs: Arrays) -> None:
        """Counts what was predicted, where the outputs are those of the data contract."""
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

    def page(self) -> bytes:
        """All of it, as text."""
        self._versions.clear()
        for label, number in self._models.labels.items():
            self._versions.labels(label).set(number)
        return generate_latest(self.registry)


def class_name(label: int) -> str:
    """The name of a class, or its number where a served model has more classes than the data contract."""
    return features.CLASSES[label] if 0 <= label < len(features.CLASSES) else str(label)
