# SPDX-License-Identifier: Apache-2.0
"""Metrics for TensorFlow Model Analysis whose examples are batches of predictions, with intervals by jackknife.

TFMA's own multi-class metrics take one image at a time, in Python, some of them through Keras, and its jackknife has
forty combinations in Beam, each a stage. Here each example is one of the random parts of the images, which takes a few
NumPy operations, and the jackknife leaves out one part after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.api.types import ValueWithTDistribution
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2, metrics_for_slice_pb2

# Keras's names.
ACCURACY, LOSS = "sparse_categorical_accuracy", "sparse_categorical_crossentropy"
TOP2 = "sparse_top_k_categorical_accuracy"
METRICS = (ACCURACY, LOSS, TOP2)
_EPSILON = 1e-7  # Keras clips probabilities at this before it takes the logarithm


class BatchedMetric(tfma.metrics.Metric):
    """One of `METRICS`, as Keras defines it, and its difference from the baseline's; both with their spread."""

    def __init__(self, name: str) -> None:
        super().__init__(metric_util.merge_per_key_computations(_metric), name=name)


class BatchedConfusionMatrix(tfma.metrics.Metric):
    """The confusion matrix, in the form of TFMA's MultiClassConfusionMatrixPlot."""

    def __init__(self, name: str) -> None:
        super().__init__(metric_util.merge_per_key_computations(_matrix), name=name)


class _Part(NamedTuple):
    """The sums and counts over a model's predictions in one example."""

    images: int
    sums: npt.NDArray[np.float64]  # of each of `METRICS`
    matrix: npt.NDArray[np.int64]  # [true class, predicted class]


class _Parts(beam.CombineFn):
    """Collects the parts of one model."""

    def __init__(self, key: metric_types.MetricKey) -> None:
        self._key = key

    def create_accumulator(self) -> list[_Part]:
        return []

    def add_input(self, accumulator: list[_Part], element: metric_types.StandardMetricInputs) -> list[_Part]:
        return [*accumulator, _part(element.get_labels(), element.get_predictions(self._key.model_name))]

    def merge_accumulators(self, accumulators: Iterable[list[_Part]]) -> list[_Part]:
        return [part for parts in accumulators for part in parts]

    def extract_output(self, accumulator: list[_Part]) -> dict[metric_types.MetricKey, list[_Part]]:
        return {self._key: accumulator}


def _metric(
    name: str, eval_config: config_pb2.EvalConfig, model_name: str, example_weighted: bool
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name, model_name=model_name, example_weighted=example_weighted)
    baseline = next((spec.name for spec in eval_config.model_specs if spec.is_baseline), model_name)
    parts = [_parts(model, example_weighted) for model in (model_name, baseline)]  # TFMA drops the same
    index = METRICS.index(name)

    def result(metrics: Mapping[metric_types.MetricKey, Any]) -> metric_types.MetricsDict:
        (mean, without), (baseline_mean, baseline_without) = (_means(metrics[each.keys[0]], index) for each in parts)
        values = {key: _jackknife(mean, without)}
        if model_name != baseline:  # the same part is left out of both
            values[key.make_diff_key()] = _jackknife(mean - baseline_mean, without - baseline_without)
        return values

    return [*parts, metric_types.DerivedMetricComputation(keys=[key], result=result)]


def _matrix(name: str, model_name: str, example_weighted: bool) -> metric_types.MetricComputations:
    key = metric_types.PlotKey(name, model_name=model_name, example_weighted=example_weighted)
    parts = _parts(model_name, example_weighted)

    def result(metrics: Mapping[metric_types.MetricKey, Any]) -> metric_types.MetricsDict:
        matrix = np.sum([part.matrix for part in metrics[parts.keys[0]]], axis=0)
        plot = metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds()
        entries = plot.matrices.add(threshold=0.0).entries
        for true, predicted in np.argwhere(matrix).tolist():
            count = float(matrix[true, predicted])
            entries.add(actual_class_id=true, predicted_class_id=predicted, num_weighted_examples=count)
        return {key: plot}

    return [parts, metric_types.DerivedMetricComputation(keys=[key], result=result)]


def _parts(model_name: str, example_weighted: bool) -> metric_types.MetricComputation:
    """Returns the computation that all metrics of a model share; TFMA does not write keys with an underscore."""
    key = metric_types.MetricKey("_predictions", model_name=model_name, example_weighted=example_weighted)
    return metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=_Parts(key))


def _part(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> _Part:
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    predictions = probabilities.argmax(axis=1)
    clipped = np.clip(probabilities.astype(np.float64), _EPSILON, 1 - _EPSILON)
    losses = np.log(clipped.sum(axis=1) / clipped[rows, labels])
    # Probabilities that are NaN have no best two.
    higher = (probabilities > probabilities[rows, labels, None]).sum(axis=1)
    among = (higher < 2) & np.isfinite(probabilities).all(axis=1)
    sums = {ACCURACY: (predictions == labels).sum(), LOSS: losses.sum(), TOP2: among.sum()}
    counts = np.bincount(labels * classes + predictions, minlength=classes**2)
    return _Part(len(labels), np.array([sums[name] for name in METRICS], float), counts.reshape(classes, classes))


def _means(parts: Iterable[_Part], index: int) -> tuple[float, npt.NDArray[np.float64]]:
    """Returns the mean of a metric over all images, and over those without each of the parts."""
    images, sums = np.array([(part.images, part.sums[index]) for part in parts]).T
    with np.errstate(invalid="ignore"):  # without the only part there is no mean
        return sums.sum() / images.sum(), (sums.sum() - sums) / (images.sum() - images)


def _jackknife(mean: float, without: npt.NDArray[np.float64]) -> float | ValueWithTDistribution:
    """Returns a mean with its spread from the means without each of the parts, by TFMA's formula and in its type."""
    parts = len(without)
    if parts == 1:
        return mean
    pseudo = parts * mean - (parts - 1) * without
    return ValueWithTDistribution(
        sample_mean=without.mean(),
        sample_standard_deviation=pseudo.std(ddof=1) / parts**0.5,
        sample_degrees_of_freedom=parts - 1,
        unsampled_value=mean,
    )
