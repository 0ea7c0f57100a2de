# SPDX-License-Identifier: Apache-2.0
"""What the viewers of the Kubeflow UI draw: the metadata of system.Metrics and system.ClassificationMetrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Points of the ROC curve: the server keeps them in one field of its database.
_POINTS = 100


def metrics(record: Mapping[str, Any]) -> dict[str, float | str]:
    """A row for each figure of a run: name -> value, finite numbers and text only.

    Args:
        record: of the run, whatever its verdict.
    """
    rows: dict[str, Any] = {"verdict": record["verdict"]}
    for of, figures in (("", record["metrics"]), ("baseline ", (record["baseline"] or {}).get("metrics"))):
        for name in ("accuracy", "loss"):
            rows[of + name] = (figures or {}).get(name)
        for digit, recall in ((figures or {}).get("recall") or {}).items():
            rows[f"{of}recall {digit}"] = recall
    if record["baseline"]:
        rows["baseline version"] = record["baseline"]["version"]
    if record["model"] and record["model"]["version"] is not None:
        rows["version"] = record["model"]["version"]
    return {name: value for name, value in rows.items() if isinstance(value, str) or _is_finite(value)}


def classification(
    classes: Sequence[str], confusion: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], scores: npt.NDArray[Any]
) -> dict[str, Any]:
    """The confusion matrix, and the ROC curve of all classes, each held against the rest.

    The curve is micro-averaged: each image counts once for each class, as one that is of the class or is not.

    Args:
        classes: name of each.
        confusion: counts [true class, answered class].
        labels: true class of each image, int [n]; those that are none are left out.
        scores: probability of each class, float [n, classes].
    """
    from kfp import dsl

    drawn = dsl.ClassificationMetrics(metadata={})
    drawn.log_confusion_matrix(list(classes), confusion.tolist())
    valid = (labels >= 0) & (labels < len(classes)) & np.isfinite(scores).all(axis=1)
    truth = (labels[valid, None] == np.arange(len(classes))[None, :]).ravel()
    if truth.any() and not truth.all():
        drawn.log_roc_curve(*_roc(truth, scores[valid].astype(np.float64).ravel()))
    return dict(drawn.metadata)


def _roc(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> tuple[list[float], list[float], list[float]]:
    """False-positive rates, recalls and their thresholds, from the highest threshold, which nothing reaches, to 0."""
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, _POINTS)))[::-1]
    # No score exceeds 1, so nothing is above this first one, and the curve begins at the origin.
    thresholds = np.concatenate([[max(1.0, thresholds[0]) + 1e-6], thresholds, [0.0]])
    positive, negative = np.sort(scores[truth]), np.sort(scores[~truth])
    recall = 1 - np.searchsorted(positive, thresholds) / len(positive)
    false_positive = 1 - np.searchsorted(negative, thresholds) / len(negative)
    return false_positive.tolist(), recall.tolist(), thresholds.tolist()


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
