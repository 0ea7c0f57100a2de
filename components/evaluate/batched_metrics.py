# SPDX-License-Identifier: Apache-2.0
"""Metrics for TensorFlow Model Analysis that take many answers as one example, and their intervals by jackknife.

TFMA's own metrics of answers with many classes take one image at a time, in Python, some of them through Keras; its own
jackknife has forty combinations in Beam, each a stage: most of what an evaluation took. Here each example is one of the
parts into which the images fall by chance, a part is a few NumPy operations, and the jackknife leaves out one example
after the other.
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

# As Keras calls them.
ACCURACY, LOSS = "sparse_categorical_accuracy", "sparse_categorical_crossentropy"
TOP2 = "sparse_top_k_categorical_accuracy"
FIGURES = (ACCURACY, LOSS, TOP2)
_EPSILON = 1e-7  # Keras takes the logarithm of no smaller probability


class AnswersFigure(tfma.metrics.Metric):
    """One of `FIGURES`, as Keras has it by that name, and its difference to the baseline's; both with their spread."""

    def __init__(self, name: str) -> None:
        super().__init__(metric_util.merge_per_key_computations(_figure), name=name)


class AnswersMatrix(tfma.metrics.Metric):
    """The confusion matrix, in the form of TFMA's MultiClassConfusionMatrixPlot."""

    def __init__(self, name: str) -> None:
        super().__init__(metric_util.merge_per_key_computations(_matrix), name=name)


class _Part(NamedTuple):
    """What a model's answers in one example come to."""

    images: int
    sums: npt.NDArray[np.float64]  # of each of `FIGURES`
    matrix: npt.NDArray[np.int64]  # [true class, answered class]


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


def _figure(
    name: str, eval_config: config_pb2.EvalConfig, model_name: str, example_weighted: bool
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name, model_name=model_name, example_weighted=example_weighted)
    baseline = next((spec.name for spec in eval_config.model_specs if spec.is_baseline), model_name)
    parts = [_parts(model, example_weighted) for model in (model_name, baseline)]  # TFMA drops the same
    figure = FIGURES.index(name)

    def result(metrics: Mapping[metric_types.MetricKey, Any]) -> metric_types.MetricsDict:
        (whole, without), (whole_before, without_before) = (_means(metrics[each.keys[0]], figure) for each in parts)
        found = {key: _jackknife(whole, without)}
        if model_name != baseline:  # the same part is left out of both
            found[key.make_diff_key()] = _jackknife(whole - whole_before, without - without_before)
        return found

    return [*parts, metric_types.DerivedMetricComputation(keys=[key], result=result)]


def _matrix(name: str, model_name: str, example_weighted: bool) -> metric_types.MetricComputations:
    key = metric_types.PlotKey(name, model_name=model_name, example_weighted=example_weighted)
    parts = _parts(model_name, example_weighted)

    def result(metrics: Mapping[metric_types.MetricKey, Any]) -> metric_types.MetricsDict:
        matrix = np.sum([part.matrix for part in metrics[parts.keys[0]]], axis=0)
        plot = metrics_for_slice_pb2.MultiClassConfusionMatrixAtThresholds()
        entries = plot.matrices.add(threshold=0.0).entries
        for true, answered in np.argwhere(matrix).tolist():
            count = float(matrix[true, answered])
            entries.add(actual_class_id=true, predicted_class_id=answered, num_weighted_examples=count)
        return {key: plot}

    return [parts, metric_types.DerivedMetricComputation(keys=[key], result=result)]


def _parts(model_name: str, example_weighted: bool) -> metric_types.MetricComputation:
    """The computation that all metrics of a model share; what begins with an underscore TFMA does not write."""
    key = metric_types.MetricKey("_answers", model_name=model_name, example_weighted=example_weighted)
    return metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=_Parts(key))


def _part(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]) -> _Part:
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    answers = probabilities.argmax(axis=1)
    clipped = np.clip(probabilities.astype(np.float64), _EPSILON, 1 - _EPSILON)
    losses = np.log(clipped.sum(axis=1) / clipped[rows, labels])
    # An answer that is no number has no best two.
    higher = (probabilities > probabilities[rows, labels, None]).sum(axis=1)
    among = (higher < 2) & np.isfinite(probabilities).all(axis=1)
    sums = {ACCURACY: (answers == labels).sum(), LOSS: losses.sum(), TOP2: among.sum()}
    counts = np.bincount(labels * classes + answers, minlength=classes**2)
    return _Part(len(labels), np.array([sums[name] for name in FIGURES], float), counts.reshape(classes, classes))


def _means(parts: Iterable[_Part], figure: int) -> tuple[float, npt.NDArray[np.float64]]:
    """A figure of all images, and of those without each of the parts."""
    images, sums = np.array([(part.images, part.sums[figure]) for part in parts]).T
    with np.errstate(invalid="ignore"):  # without the only part there is none
        return sums.sum() / images.sum(), (sums.sum() - sums) / (images.sum() - images)


def _jackknife(whole: float, without: npt.NDArray[np.float64]) -> float | ValueWithTDistribution:
    """A figure with its spread, by what it is without each of the parts: TFMA's formula, and its type for it."""
    parts = len(without)
    if parts == 1:
        return whole
    pseudo = parts * whole - (parts - 1) * without
    return ValueWithTDistribution(
        sample_mean=without.mean(),
        sample_standard_deviation=pseudo.std(ddof=1) / parts**0.5,
        sample_degrees_of_freedom=parts - 1,
        unsampled_value=whole,
    )
