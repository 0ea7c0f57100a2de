# SPDX-License-Identifier: Apache-2.0
"""Reads what TensorFlow Model Analysis measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma

from components import features
from components.evaluate import answers, slices
from components.evaluate import eval_configs as names

# What has an interval: our name, TFMA's, and the values that there are.
_MEASURED = {
    "accuracy": (answers.ACCURACY, (0.0, 1.0)),
    "top2": (answers.TOP2, (0.0, 1.0)),
    "loss": (answers.LOSS, (0.0, math.inf)),
    "change": (f"{answers.ACCURACY}_diff", (-1.0, 1.0)),
}
_SUMS = ("totalWeightedLabel", "totalWeightedRefinedPrediction", "numWeightedExamples")


def approved(output_path: str) -> bool:
    """Whether TFMA itself found every threshold of the configuration kept."""
    return bool(tfma.load_validation_result(output_path).validation_ok)


def load(output_path: str, model: str | None) -> dict[str, Any]:
    """Reads the figures of one model.

    Args:
        output_path: folder of a ModelEvaluation artifact.
        model: its name; None where it is the only one, as TFMA drops the name then.

    Returns:
        `accuracy` and `top2` (0 .. 1), `loss` (nats), `examples` (count); `intervals`, the two ends of the 95 %
        interval of each of `accuracy`, `top2`, `loss`, and of `change`, the accuracy less that of the baseline, each
        only where TFMA has one; `recall`, `precision` and `f1` (class name -> 0 .. 1); `confusion`, counts
        [true class][answered class]; `calibration`, the expected `error` (0 .. 1) and the `curve`, for each bin of
        confidence with images their mean `confidence`, `accuracy` and `examples`; `slices`, by feature and group
        `accuracy` and `examples`. A class without an example has no recall, one that was never answered no precision.
    """
    result = tfma.load_eval_result(output_path, model_name=model)
    by_slice = {key: values[""][""] for key, values in result.slicing_metrics}
    overall, plots = by_slice[()], dict(result.plots)[()][""][""]
    intervals = {key: _interval(overall.get(metric, {}), *within) for key, (metric, within) in _MEASURED.items()}
    recall = {}
    for index, name in enumerate(features.CLASSES):
        if (figures := by_slice.get(((features.LABEL, index),))) is not None:
            recall[name] = _value(figures[names.SLICE_ACCURACY])
    matrix = _confusion(plots[names.MATRIX])
    right, true, answered = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "accuracy": _value(overall[answers.ACCURACY]),
        "loss": _value(overall[answers.LOSS]),
        "examples": int(_value(overall[names.COUNT])),
        "intervals": {key: list(ends) for key, ends in intervals.items() if ends},
        "recall": recall,
        "precision": _shares(right, answered),
        "f1": _shares(2 * right, true + answered),
        "top2": _value(overall[answers.TOP2]),
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
            for feature, groups in slices.GROUPS.items()
        },
    }


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


def _calibration(plot: Mapping[str, Any]) -> dict[str, Any]:
    """The expected calibration error (https://arxiv.org/abs/1706.04599) and the curve that it comes from."""
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
    """The ends of TFMA's interval, which knows nothing of what values there are; None where it has none."""
    bounds = metric.get("boundedValue", {})
    ends = [float(bounds.get(key, math.nan)) for key in ("lowerBound", "upperBound")]
    if not all(math.isfinite(end) for end in ends):
        return None
    low, high = np.clip(ends, lowest, highest).tolist()
    return low, high


def _value(metric: Mapping[str, Any]) -> float:
    """The value itself; one with an interval is written as TFMA's bounded value, and 0 is not written."""
    if "boundedValue" in metric:
        return float(metric["boundedValue"].get("value", 0.0))
    return float(metric.get("doubleValue", math.nan))
