# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Model Analysis of the test split, for every model in one pass.

`predictions` runs each model once; TFMA gets the predictions, so its Beam pipeline neither loads a model nor parses an
image. TFMA processes each example in Python, once for each slice that it is in, so its examples are groups of images:

- For the split as one, 20 examples, which are the parts of the jackknife of `batched_metrics`.
- For slices, only the correctness and the confidence of a prediction matter. All images in the same slices are one
  example, some 90 in all; in it, predictions that are equally right and in the same bin of confidence are merged into
  one with their mean confidence and their count as its weight. All metrics of slices are sums over images or over
  those of a bin, so merging changes none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.evaluators import evaluator as evaluators
from tensorflow_model_analysis.proto import config_pb2

from components import features
from components.evaluate import batched_metrics, eval_config
from components.evaluate import eval_config as names
from components.evaluate.eval_config import CALIBRATION_BINS, EvalConfigs
from components.evaluate.predictions import Predictions

_COMBINED = ("metrics", "plots", "attributions")
_WEIGHTED = (tfma.LABELS_KEY, tfma.PREDICTIONS_KEY, tfma.EXAMPLE_WEIGHTS_KEY)
_PARTS = 20  # of the jackknife, as many as TFMA's own has
_SEED = 1  # of the parts, so that the same predictions have the same intervals


def measure(pipeline: beam.Pipeline, blocks: Sequence[Predictions], configs: EvalConfigs, output_path: str) -> None:
    """Adds TFMA to a Beam pipeline; when that has run, its results lie in `output_path` in TFMA's own format.

    Args:
        pipeline: an open pipeline.
        blocks: the predictions.
        configs: from `eval_config.build_eval_configs`, for the same models.
        output_path: folder of a ModelEvaluation artifact.
    """
    parts = [
        _evaluated(pipeline, "Overall", _parts(blocks), configs.overall),
        _evaluated(pipeline, "Sliced", _groups(blocks), configs.sliced),
    ]
    results = evaluators.combine_dict_based_evaluations({key: [part[key] for part in parts] for key in _COMBINED})
    results["validations"] = [part["validations"] for part in parts] | "Validations" >> beam.Flatten()
    writers = tfma.default_writers(output_path=output_path, eval_config=configs.both)
    _ = results | "Write" >> tfma.WriteResults(writers=writers)


def _evaluated(
    pipeline: beam.Pipeline, name: str, extracts: list[dict[str, Any]], config: config_pb2.EvalConfig
) -> dict[str, beam.PCollection]:
    # TFMA's default extractors and evaluators would load a model for every change threshold.
    return (
        pipeline
        | f"{name} predictions" >> beam.Create(extracts, reshuffle=False)
        | f"Measure {name}"
        >> tfma.ExtractAndEvaluate(
            extractors=[tfma.extractors.SliceKeyExtractor(eval_config=config)],
            evaluators=[tfma.evaluators.MetricsPlotsAndValidationsEvaluator(eval_config=config)],
        )
    )


def _parts(blocks: Sequence[Predictions]) -> list[dict[str, Any]]:
    """Returns an example for each part of the images: their labels and each model's probabilities."""
    labels = np.concatenate([block.labels for block in blocks])
    probabilities = {
        name: np.concatenate([block.probabilities[name] for block in blocks]) for name in blocks[0].probabilities
    }
    shuffled = np.random.default_rng(_SEED).permutation(len(labels))
    return [
        {
            tfma.FEATURES_KEY: {},
            tfma.LABELS_KEY: labels[rows],
            tfma.PREDICTIONS_KEY: _by_model({name: values[rows] for name, values in probabilities.items()}),
            tfma.EXAMPLE_WEIGHTS_KEY: np.array([float(len(rows))]),
        }
        for rows in np.array_split(shuffled, min(_PARTS, len(labels)))
    ]


def _groups(blocks: Sequence[Predictions]) -> list[dict[str, Any]]:
    """Returns an example for all images in the same slices: the correctness, confidence and number of predictions."""
    labels = np.concatenate([block.labels for block in blocks])
    keys = [labels, *(np.concatenate([block.slices[name] for block in blocks]) for name in eval_config.GROUPS)]
    numbers = [np.unique(key, return_inverse=True)[1] for key in keys]
    right, confidence = {}, {}
    for name in blocks[0].probabilities:
        # A NaN is wrong with no confidence.
        probabilities = np.nan_to_num(np.concatenate([block.probabilities[name] for block in blocks]), nan=-1.0)
        highest = probabilities.max(axis=1)
        right[name] = ((probabilities.argmax(axis=1) == labels) & (highest >= 0)).astype(np.float64)
        confidence[name] = np.maximum(highest, 0.0).astype(np.float64)
    _, group_of = np.unique(np.stack(numbers), axis=1, return_inverse=True)
    group_of = group_of.reshape(-1)  # NumPy 2.0 gives it another axis
    examples = []
    for rows in (np.flatnonzero(group_of == group) for group in range(group_of.max() + 1)):
        merged = {name: _merge(right[name][rows], confidence[name][rows]) for name in right}
        examples.append(
            {
                tfma.FEATURES_KEY: {
                    name: np.array([key[rows[0]]])
                    for name, key in zip((features.LABEL, *eval_config.GROUPS), keys, strict=True)
                },
                **{key: _by_model({name: values[key] for name, values in merged.items()}) for key in _WEIGHTED},
            }
        )
    return examples


def _merge(right: npt.NDArray[np.float64], confidence: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Merges the predictions that are equally right, with confidences in the same bin of the calibration."""
    bins = np.floor(confidence * CALIBRATION_BINS)
    kinds, kind_of, counts = np.unique(np.stack([right, bins]), axis=1, return_inverse=True, return_counts=True)
    means = np.bincount(kind_of.reshape(-1), confidence) / counts
    return dict(zip(_WEIGHTED, (kinds[0], means, counts.astype(np.float64)), strict=True))


def _by_model(values: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Returns values in TFMA's form: under each model's name, unless there is only one model."""
    return dict(values) if len(values) > 1 else next(iter(values.values()))


# Metrics with an interval: own name, TFMA's, and the range of values.
_INTERVALS = {
    "accuracy": (batched_metrics.ACCURACY, (0.0, 1.0)),
    "top2": (batched_metrics.TOP2, (0.0, 1.0)),
    "loss": (batched_metrics.LOSS, (0.0, math.inf)),
    "change": (f"{batched_metrics.ACCURACY}_diff", (-1.0, 1.0)),
}
_SUMS = ("totalWeightedLabel", "totalWeightedRefinedPrediction", "numWeightedExamples")


def is_approved(output_path: str) -> bool:
    """Returns TFMA's own verdict: True if every threshold of the configuration holds."""
    return bool(tfma.load_validation_result(output_path).validation_ok)


def load_metrics(output_path: str, model: str | None) -> dict[str, Any]:
    """Reads the metrics of one model.

    Args:
        output_path: folder of a ModelEvaluation artifact.
        model: its name; None if it is the only one, as TFMA then drops the name.

    Returns:
        `accuracy` and `top2` (0 .. 1), `loss` (nats), `examples` (count); `intervals`, the two ends of the 95 %
        interval of each of `accuracy`, `top2`, `loss`, and of `change`, the accuracy less that of the baseline, each
        only where TFMA has one; `recall`, `precision` and `f1` (class name -> 0 .. 1); `confusion`, counts
        [true class][predicted class]; `calibration`, the expected `error` (0 .. 1) and the `curve`, for each bin of
        confidence with images their mean `confidence`, `accuracy` and `examples`; `slices`, by feature and group
        `accuracy` and `examples`. A class without examples has no recall, one that is never predicted no precision.
    """
    result = tfma.load_eval_result(output_path, model_name=model)
    by_slice = {key: values[""][""] for key, values in result.slicing_metrics}
    overall, plots = by_slice[()], dict(result.plots)[()][""][""]
    intervals = {key: _interval(overall.get(metric, {}), *within) for key, (metric, within) in _INTERVALS.items()}
    recall = {}
    for index, name in enumerate(features.CLASSES):
        if (figures := by_slice.get(((features.LABEL, index),))) is not None:
            recall[name] = _value(figures[names.SLICE_ACCURACY])
    matrix = _confusion(plots[names.MATRIX])
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "accuracy": _value(overall[batched_metrics.ACCURACY]),
        "loss": _value(overall[batched_metrics.LOSS]),
        "examples": int(_value(overall[names.COUNT])),
        "intervals": {key: list(ends) for key, ends in intervals.items() if ends},
        "recall": recall,
        "precision": _shares(right, predicted),
        "f1": _shares(2 * right, true + predicted),
        "top2": _value(overall[batched_metrics.TOP2]),
        "confusion": matrix.tolist(),
        "calibration": _calibration(plots[names.CURVE]),
        "slices": {
            feature: {
                name: {
                    "accuracy": _value(figures[names.SLICE_ACCURACY]),
                    "examples": int(_value(figures[names.SLICE_COUNT])),
                }
                for name in groups
                if (figures := by_slice.get(((feature, name),))) is not None
            }
            for feature, groups in eval_config.GROUPS.items()
        },
    }


def _confusion(plot: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Returns counts [true class, predicted class]; predictions that are no class, as of NaN, are left out."""
    matrix = np.zeros((len(features.CLASSES), len(features.CLASSES)), np.int64)
    for entry in plot["matrices"][0].get("entries", ()):
        row, column = entry.get("actualClassId", 0), entry.get("predictedClassId", 0)  # 0 is not written
        if 0 <= row < len(matrix) and 0 <= column < len(matrix):
            matrix[row, column] = round(entry.get("numWeightedExamples", 0))
    return matrix


def _shares(counts: npt.NDArray[np.int64], totals: npt.NDArray[np.int64]) -> dict[str, float]:
    rows = zip(features.CLASSES, counts.tolist(), totals.tolist(), strict=True)
    return {name: count / total for name, count, total in rows if total}


def _calibration(plot: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the expected calibration error (https://arxiv.org/abs/1706.04599) and the curve that it comes from."""
    bins = np.zeros((names.CALIBRATION_BINS, 3))
    for bucket in plot["buckets"]:
        # A confidence of 1 is in a bucket of its own, above the others.
        lower = min(max(float(bucket.get("lowerThresholdInclusive", 0.0)), 0.0), 1.0 - 0.5 / len(bins))
        sums = (bucket.get(key, 0.0) for key in _SUMS)
        bins[math.floor(lower * len(bins) + 1e-9)] += np.fromiter(sums, float)
    curve = [
        {"confidence": confidence / count, "accuracy": right / count, "examples": round(count)}
        for right, confidence, count in bins.tolist()
        if count
    ]
    gaps = np.abs(bins[:, 0] - bins[:, 1]).sum()
    return {"error": float(gaps / max(bins[:, 2].sum(), 1.0)), "curve": curve}


def _interval(metric: Mapping[str, Any], lowest: float, highest: float) -> tuple[float, float] | None:
    """Returns the ends of TFMA's interval, clipped to the range of values; None without an interval."""
    bounds = metric.get("boundedValue", {})
    ends = [float(bounds.get(key, math.nan)) for key in ("lowerBound", "upperBound")]
    if not all(math.isfinite(end) for end in ends):
        return None
    low, high = np.clip(ends, lowest, highest).tolist()
    return low, high


def _value(metric: Mapping[str, Any]) -> float:
    """Returns a metric's value. TFMA writes one with an interval as a bounded value, and leaves 0 out."""
    if "boundedValue" in metric:
        return float(metric["boundedValue"].get("value", 0.0))
    return float(metric.get("doubleValue", math.nan))
