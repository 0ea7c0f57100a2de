# SPDX-License-Identifier: Apache-2.0
"""Statistics of the predictions for the test images: confusion, intervals, errors.

The results of the gates are in the record, and never computed again from these.
"""

from __future__ import annotations

import math
import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components import intervals

_Z95 = 1.959964  # two-sided 95 % quantile of the normal distribution


class SplitPredictions(NamedTuple):
    """The predictions of one model for the test images: `labels` int64 [n], `probabilities` float [n, classes]."""

    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.floating]

    @property
    def classes(self) -> npt.NDArray[np.intp]:
        """The most probable class of each image, int [n]."""
        return np.nan_to_num(self.probabilities, nan=-1.0).argmax(axis=1)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """The images whose prediction is the label, bool [n]."""
        return self.classes == self.labels


class Interval(NamedTuple):
    """A value with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def load(path: pathlib.Path) -> tuple[list[str], dict[str, SplitPredictions]]:
    """Reads the ids of the test images and the predictions of each model, by its name, from `predictions.npz`."""
    with np.load(path, allow_pickle=False) as file:
        ids, labels = file["ids"].tolist(), file["labels"]
        models = {name: SplitPredictions(labels, file[name]) for name in file.files if name not in ("ids", "labels")}
    return ids, models


def confusion(predictions: SplitPredictions) -> npt.NDArray[np.int64]:
    """Counts images by [true class, predicted class]; labels that are not a class are left out."""
    classes = predictions.probabilities.shape[1]
    matrix = np.zeros((classes, classes), np.int64)
    valid = (predictions.labels >= 0) & (predictions.labels < classes)
    np.add.at(matrix, (predictions.labels[valid], predictions.classes[valid]), 1)
    return matrix


def share(successes: int, count: int) -> Interval | None:
    """Computes a share with its Wilson interval; None if `count` is 0."""
    if not count:
        return None
    return Interval(successes / count, *intervals.wilson(successes, count))


def difference(candidate: SplitPredictions, baseline: SplitPredictions) -> Interval:
    """Computes the difference of two accuracies on the same images, with the normal interval for paired predictions.

    Only images on which one of the two is correct count: with `gained` and `lost` of them among n, the variance is
    (gained + lost - (gained - lost)^2 / n) / n^2 (Agresti, Categorical Data Analysis, section on matched pairs).
    """
    gained, lost = (int(rows.sum()) for rows in changes(candidate, baseline))
    count = len(candidate.labels)
    value = (gained - lost) / count
    half = _Z95 * math.sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0.0)) / count
    return Interval(value, value - half, value + half)


def changes(
    candidate: SplitPredictions, baseline: SplitPredictions
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Returns masks, bool [n], of the images that only the candidate predicts correctly, and that only the baseline."""
    return candidate.correct & ~baseline.correct, baseline.correct & ~candidate.correct


def worst(predictions: SplitPredictions, mask: npt.NDArray[np.bool_], limit: int) -> list[int]:
    """Returns the masked rows with the lowest probability of the true class, the lowest first, at most `limit`."""
    rows = np.flatnonzero(mask)
    valid = np.clip(predictions.labels[rows], 0, predictions.probabilities.shape[1] - 1)
    probability = np.nan_to_num(predictions.probabilities[rows, valid], nan=0.0)
    return rows[np.argsort(probability, kind="stable")][:limit].tolist()
