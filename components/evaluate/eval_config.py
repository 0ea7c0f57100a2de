# SPDX-License-Identifier: Apache-2.0
"""TFMA's configuration, with slices for handwriting: by the amount of ink and by the slant of the strokes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tensorflow_model_analysis.proto import config_pb2

from components import features
from components.evaluate import batched_metrics
from components.evaluate.limits import ModelLimits

# Feature -> lower edges of all groups but the first, and the groups' names. MNIST falls into about thirds.
_EDGES = {features.INK_SHARE: (0.11, 0.15), features.SLANT: (0.0, 0.2)}
GROUPS = {
    features.INK_SHARE: ("below 11 %", "11 to 15 %", "15 % or more"),
    features.SLANT: ("to the left", "to the right, below 11°", "to the right, 11° or more"),
}


def slice_values(values: Mapping[str, npt.NDArray[np.floating]]) -> dict[str, npt.NDArray[np.object_]]:
    """Puts examples into groups.

    Args:
        values: float [n] for each feature of `GROUPS`, in the units of `features`.

    Returns:
        For each feature the group of each example, str [n].
    """
    return {name: np.array(GROUPS[name], object)[np.digitize(values[name], edges)] for name, edges in _EDGES.items()}


CANDIDATE, BASELINE, BEST = "candidate", "baseline", "best"
# Names of the other results: TFMA's for the split as one, own names for the slices.
COUNT, MATRIX = "example_count", "multiClassConfusionMatrixAtThresholds"
SLICE_COUNT, SLICE_ACCURACY, SLICE_CONFIDENCE, CURVE = "images", "accuracy", "confidence", "calibrationHistogramBuckets"
CALIBRATION_BINS = 10


class EvalConfigs(NamedTuple):
    """Configurations for the split as one, for its slices, and for both, which is written beside the results."""

    overall: config_pb2.EvalConfig
    sliced: config_pb2.EvalConfig
    both: config_pb2.EvalConfig


def build_eval_configs(models: Sequence[str], limits: ModelLimits, model_type: str) -> EvalConfigs:
    """Builds the configurations.

    Args:
        models: names of the models: CANDIDATE, then BASELINE and BEST if they exist.
        limits: of the model gate.
        model_type: key of `limits.accuracy`.
    """
    overall = _overall(models, limits, model_type)
    sliced = _sliced(models, limits)
    both = config_pb2.EvalConfig()
    both.CopyFrom(overall)
    both.metrics_specs.extend(sliced.metrics_specs)
    both.slicing_specs.extend(sliced.slicing_specs)
    return EvalConfigs(overall, sliced, both)


def model_names(models: Sequence[str]) -> list[str]:
    """Returns the models' names in TFMA, which drops the name of an only model."""
    return list(models) if len(models) > 1 else [""]


def _overall(models: Sequence[str], limits: ModelLimits, model_type: str) -> config_pb2.EvalConfig:
    """Configures metrics of parts of the split with 95 % jackknife intervals, and their changes from the baseline."""
    config = _config(models)
    for name in model_names(models):
        spec = config.metrics_specs.add(model_names=[name])
        spec.example_weights.weighted = True
        _add(spec, "ExampleCount")
        for metric in batched_metrics.METRICS:
            _add(spec, "BatchedMetric", batched_metrics.__name__, name=metric)
        # Precision and F1 follow from it. Only with the name of TFMA's own plot are the plots of a slice merged.
        _add(spec, "BatchedConfusionMatrix", batched_metrics.__name__, name="confusion_matrix_plot")
    count, accuracy = config.metrics_specs[0].metrics[:2]
    count.threshold.value_threshold.lower_bound.value = limits.test_examples
    accuracy.threshold.value_threshold.lower_bound.value = limits.accuracy[model_type]
    if BASELINE in models:
        accuracy.threshold.change_threshold.absolute.value = -limits.change
        accuracy.threshold.change_threshold.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
    return config


def _sliced(models: Sequence[str], limits: ModelLimits) -> config_pb2.EvalConfig:
    """Configures metrics of groups of predictions: label 1 if right, prediction the confidence, weight the count."""
    config = _config(models)
    config.slicing_specs.add()
    for feature in (features.LABEL, *GROUPS):
        config.slicing_specs.add(feature_keys=[feature])
    for name in model_names(models):
        spec = config.metrics_specs.add(model_names=[name])
        spec.example_weights.weighted = True
        _add(spec, "MeanLabel", name=SLICE_ACCURACY)
        _add(spec, "MeanPrediction", name=SLICE_CONFIDENCE)
        _add(spec, "CalibrationPlot", num_buckets=CALIBRATION_BINS)
        _add(spec, "ExampleCount", name=SLICE_COUNT)
    by_class = config.metrics_specs[0].metrics[0].per_slice_thresholds.add()
    by_class.slicing_specs.add(feature_keys=[features.LABEL])
    by_class.threshold.value_threshold.lower_bound.value = limits.recall
    return config


def _config(models: Sequence[str]) -> config_pb2.EvalConfig:
    config = config_pb2.EvalConfig()
    for name, shown in zip(models, model_names(models), strict=True):
        config.model_specs.add(name=shown, is_baseline=name == BASELINE)
    return config


def _add(spec: config_pb2.MetricsSpec, metric: str, module: str = "", **config: Any) -> None:
    spec.metrics.add(class_name=metric, module=module, config=json.dumps(config) if config else "")
