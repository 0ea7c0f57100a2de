# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow Model Analysis is to measure, in its own words, and the limits that it can judge by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tensorflow_model_analysis.proto import config_pb2

from components import features
from components.evaluate import answers, slices
from components.evaluate.limits import ModelLimits

CANDIDATE, BASELINE, BEST = "candidate", "baseline", "best"
# How the other results are called: those of the whole split by TFMA, those of the slices here.
COUNT, MATRIX = "example_count", "multiClassConfusionMatrixAtThresholds"
SLICE_COUNT, SLICE_ACCURACY, SLICE_CONFIDENCE, CURVE = "images", "accuracy", "confidence", "calibrationHistogramBuckets"
CALIBRATION_BINS = 10


class EvalConfigs(NamedTuple):
    """What to measure on the whole split, what on each slice, and both in one: that is written beside the results."""

    whole: config_pb2.EvalConfig
    sliced: config_pb2.EvalConfig
    both: config_pb2.EvalConfig


def build(models: Sequence[str], limits: ModelLimits, model_type: str) -> EvalConfigs:
    """Builds the configurations.

    Args:
        models: names of the models, CANDIDATE first, then BASELINE and BEST where there are such.
        limits: of the model gate.
        model_type: key of `limits.accuracy`.
    """
    whole = _whole(models, limits, model_type)
    sliced = _sliced(models, limits)
    both = config_pb2.EvalConfig()
    both.CopyFrom(whole)
    both.metrics_specs.extend(sliced.metrics_specs)
    both.slicing_specs.extend(sliced.slicing_specs)
    return EvalConfigs(whole, sliced, both)


def names(models: Sequence[str]) -> list[str]:
    """The models' names as TFMA has them: it drops the name of an only model."""
    return list(models) if len(models) > 1 else [""]


def _whole(models: Sequence[str], limits: ModelLimits, model_type: str) -> config_pb2.EvalConfig:
    """Of parts of the split the figures with 95 % intervals by jackknife, the differences to the baseline too."""
    config = _config(models)
    for name in names(models):
        spec = config.metrics_specs.add(model_names=[name])
        spec.example_weights.weighted = True
        _add(spec, "ExampleCount")
        for figure in answers.FIGURES:
            _add(spec, "AnswersFigure", answers.__name__, name=figure)
        # Precision and F1 follow from it.
        # TFMA keeps plots of the same slice apart unless they have the names that it gives its own.
        _add(spec, "AnswersMatrix", answers.__name__, name="confusion_matrix_plot")
    count, accuracy = config.metrics_specs[0].metrics[:2]
    count.threshold.value_threshold.lower_bound.value = limits.test_examples
    accuracy.threshold.value_threshold.lower_bound.value = limits.accuracy[model_type]
    if BASELINE in models:
        accuracy.threshold.change_threshold.absolute.value = -limits.change
        accuracy.threshold.change_threshold.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
    return config


def _sliced(models: Sequence[str], limits: ModelLimits) -> config_pb2.EvalConfig:
    """Of answers alike whether they are right, the label, their confidence, the prediction, and number, the weight."""
    config = _config(models)
    config.slicing_specs.add()
    for feature in (features.LABEL, *slices.GROUPS):
        config.slicing_specs.add(feature_keys=[feature])
    for name in names(models):
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
    for name, shown in zip(models, names(models), strict=True):
        config.model_specs.add(name=shown, is_baseline=name == BASELINE)
    return config


def _add(spec: config_pb2.MetricsSpec, metric: str, module: str = "", **config: Any) -> None:
    spec.metrics.add(class_name=metric, module=module, config=json.dumps(config) if config else "")
