# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Model Analysis: all that is measured on the test split, for every model in one pass.

Each model is asked once, by `predictions`; TFMA gets the answers as features ("model agnostic" in its words), so its
Beam pipeline neither loads a model nor parses an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma
from google.protobuf import text_format
from tensorflow_model_analysis.extractors import materialized_predictions_extractor
from tensorflow_model_analysis.proto import config_pb2

from components import features
from components.evaluate import slices
from components.evaluate.limits import ModelLimits
from components.evaluate.predictions import Predictions

CANDIDATE, BASELINE, BEST = "candidate", "baseline", "best"
_SLICES = f"""
slicing_specs {{}}
slicing_specs {{ feature_keys: "{features.LABEL}" }}
""" + "".join(f'slicing_specs {{ feature_keys: "{name}" }}\n' for name in slices.GROUPS)
_ACCURACY, _LOSS, _COUNT = "sparse_categorical_accuracy", "sparse_categorical_crossentropy", "example_count"
_TOP2, _MATRIX = "sparse_top_k_categorical_accuracy", "multiClassConfusionMatrixAtThresholds"


def eval_config(models: Sequence[str], limits: ModelLimits, model_type: str) -> config_pb2.EvalConfig:
    """What TFMA is to measure, and the limits that it can judge by itself.

    Args:
        models: names of the models, CANDIDATE first, then BASELINE and BEST where there are such.
        limits: of the model gate.
        model_type: key of `limits.accuracy`.
    """
    config = text_format.Parse(_SLICES, config_pb2.EvalConfig())
    for name in models:
        shown = name if len(models) > 1 else ""  # TFMA drops the name of an only model
        config.model_specs.add(
            name=shown, label_key=features.LABEL, prediction_key=_key(name), is_baseline=name == BASELINE
        )
        judged = config.metrics_specs.add(model_names=[shown])
        for metric in ("ExampleCount", "SparseCategoricalAccuracy", "SparseCategoricalCrossentropy"):
            judged.metrics.add(class_name=metric)
    shown_too = config.metrics_specs.add(model_names=[spec.name for spec in config.model_specs])
    shown_too.metrics.add(class_name="SparseTopKCategoricalAccuracy", config='{"k": 2}')
    # Precision and F1 follow from it; asked of TFMA for each class, they would cost more than all the rest.
    shown_too.metrics.add(class_name="MultiClassConfusionMatrixPlot", config='{"thresholds": [0.0]}')
    count, accuracy, _ = config.metrics_specs[0].metrics
    # A threshold without a slice holds for every slice; these are for the whole split.
    whole = {"slicing_specs": [config_pb2.SlicingSpec()]}
    count.per_slice_thresholds.add(**whole).threshold.value_threshold.lower_bound.value = limits.test_examples
    overall = accuracy.per_slice_thresholds.add(**whole).threshold
    overall.value_threshold.lower_bound.value = limits.accuracy[model_type]
    if BASELINE in models:
        overall.change_threshold.absolute.value = -limits.change
        overall.change_threshold.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
    by_class = accuracy.per_slice_thresholds.add()
    by_class.slicing_specs.add(feature_keys=[features.LABEL])
    by_class.threshold.value_threshold.lower_bound.value = limits.recall
    return config


def measure(
    pipeline: beam.Pipeline, blocks: Sequence[Predictions], config: config_pb2.EvalConfig, output_path: str
) -> None:
    """Adds TFMA to a Beam pipeline; when that has run, its results lie in `output_path` in TFMA's own format.

    Args:
        pipeline: an open pipeline.
        blocks: the predictions.
        config: of `eval_config`.
        output_path: folder of a ModelEvaluation artifact.
    """
    # Put together by hand: TFMA's defaults want a model of its own to load wherever a change is judged.
    extractors = [
        tfma.extractors.LabelsExtractor(eval_config=config),
        tfma.extractors.ExampleWeightsExtractor(eval_config=config),
        materialized_predictions_extractor.MaterializedPredictionsExtractor(eval_config=config),
        tfma.extractors.UnbatchExtractor(),
        tfma.extractors.SliceKeyExtractor(eval_config=config),
    ]
    evaluator = tfma.evaluators.MetricsPlotsAndValidationsEvaluator(eval_config=config)
    _ = (
        pipeline
        | "Predictions" >> beam.Create([_extracts(block) for block in blocks])
        | "Measure" >> tfma.ExtractAndEvaluate(extractors=extractors, evaluators=[evaluator])
        | "Write" >> tfma.WriteResults(writers=tfma.default_writers(output_path=output_path, eval_config=config))
    )


def load(output_path: str, model: str | None) -> dict[str, Any]:
    """Reads the figures of one model.

    Args:
        output_path: folder of a ModelEvaluation artifact.
        model: its name; None where it is the only one, as TFMA drops the name then.

    Returns:
        `accuracy` and `top2` (0 .. 1), `loss` (nats), `examples` (count); `recall`, `precision` and `f1` (class name ->
        0 .. 1); `confusion`, counts [true class][answered class]; `slices`, by feature and group `accuracy` and
        `examples`. A class without an example has no recall, one that was never answered no precision.
    """
    result = tfma.load_eval_result(output_path, model_name=model)
    by_slice = {key: values[""][""] for key, values in result.slicing_metrics}
    overall = by_slice[()]
    recall = {}
    for index, name in enumerate(features.CLASSES):
        if (figures := by_slice.get(((features.LABEL, index),))) is not None:
            recall[name] = _value(figures[_ACCURACY])
    matrix = _confusion(dict(result.plots)[()][""][""][_MATRIX])
    right, true, answered = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "accuracy": _value(overall[_ACCURACY]),
        "loss": _value(overall[_LOSS]),
        "examples": int(_value(overall[_COUNT])),
        "recall": recall,
        "precision": _shares(right, answered),
        "f1": _shares(2 * right, true + answered),
        "top2": _value(overall[_TOP2]),
        "confusion": matrix.tolist(),
        "slices": {
            feature: {
                name: {"accuracy": _value(figures[_ACCURACY]), "examples": int(_value(figures[_COUNT]))}
                for name in groups
                if (figures := by_slice.get(((feature, name),))) is not None
            }
            for feature, groups in slices.GROUPS.items()
        },
    }


def approved(output_path: str) -> bool:
    """Whether TFMA itself found every threshold of the configuration kept."""
    return bool(tfma.load_validation_result(output_path).validation_ok)


def _confusion(plot: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Counts [true class, answered class]; an answer that is no class, as of a model that says NaN, is left out."""
    matrix = np.zeros((len(features.CLASSES), len(features.CLASSES)), np.int64)
    for entry in plot["matrices"][0].get("entries", ()):
        row, column = entry.get("actualClassId", 0), entry.get("predictedClassId", 0)  # 0 is not written
        if 0 <= row < len(matrix) and 0 <= column < len(matrix):
            matrix[row, column] = round(entry.get("numWeightedExamples", 0))
    return matrix


def _shares(parts: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> dict[str, float]:
    rows = zip(features.CLASSES, parts.tolist(), of.tolist(), strict=True)
    return {name: part / whole for name, part, whole in rows if whole}


def _value(metric: Mapping[str, Any]) -> float:
    value = metric.get("doubleValue", math.nan)
    return float(value)


def _key(model: str) -> str:
    return f"prediction_{model}"


def _extracts(block: Predictions) -> dict[str, Any]:
    return {
        tfma.FEATURES_KEY: {
            features.LABEL: block.labels[:, None],
            **{name: values[:, None] for name, values in block.slices.items()},
            **{_key(name): values for name, values in block.probabilities.items()},
        }
    }
