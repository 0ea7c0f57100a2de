# SPDX-License-Identifier: Apache-2.0
"""What follows from the answers to the test images: confusion, intervals, calibration, which images went wrong.

Nothing here judges: the gates' results are the record's.
"""

from __future__ import annotations

import math
import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_Z95 = 1.959964  # two-sided 95 % quantile of the normal distribution


class Answers(NamedTuple):
    """What one model says of the test images: `labels` int64 [n], `probabilities` float [n, classes]."""

    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.floating]

    @property
    def classes(self) -> npt.NDArray[np.intp]:
        """The most probable class of each image, int [n]."""
        return np.nan_to_num(self.probabilities, nan=-1.0).argmax(axis=1)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        return self.classes == self.labels


class Interval(NamedTuple):
    """A figure with its 95 % confidence interval, all in the unit of the figure."""

    value: float
    low: float
    high: float


class Bin(NamedTuple):
    """One bin of the calibration curve: the mean confidence and the share of right answers of so many images."""

    confidence: float
    accuracy: float
    images: int


def load(path: pathlib.Path) -> tuple[list[str], dict[str, Answers]]:
    """The ids of the test images, and by name each model's answers, from what evaluation kept."""
    with np.load(path, allow_pickle=False) as file:
        ids, labels = file["ids"].tolist(), file["labels"]
        models = {name: Answers(labels, file[name]) for name in file.files if name not in ("ids", "labels")}
    return ids, models


def confusion(answers: Answers) -> npt.NDArray[np.int64]:
    """Counts [true class, answered class]."""
    classes = answers.probabilities.shape[1]
    matrix = np.zeros((classes, classes), np.int64)
    valid = (answers.labels >= 0) & (answers.labels < classes)
    np.add.at(matrix, (answers.labels[valid], answers.classes[valid]), 1)
    return matrix


def share(right: int, count: int) -> Interval | None:
    """A share with Wilson's interval (https://doi.org/10.1080/01621459.1927.10502953); None of nothing."""
    if not count:
        return None
    value, square = right / count, _Z95**2
    middle = (value + square / (2 * count)) / (1 + square / count)
    half = _Z95 / (1 + square / count) * math.sqrt(value * (1 - value) / count + square / (4 * count**2))
    # At 0 and 1 one end is the value itself, and must not miss it by a rounding error.
    return Interval(value, min(middle - half, value), max(middle + half, value))


def difference(candidate: Answers, baseline: Answers) -> Interval:
    """The difference of two accuracies on the same images, with the normal interval for paired answers.

    Only images on which one of the two is right count: with `gained` and `lost` of them among n, the variance is
    (gained + lost - (gained - lost)^2 / n) / n^2 (Agresti, Categorical Data Analysis, section on matched pairs).
    """
    gained, lost = (int(rows.sum()) for rows in changes(candidate, baseline))
    count = len(candidate.labels)
    value = (gained - lost) / count
    half = _Z95 * math.sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0.0)) / count
    return Interval(value, value - half, value + half)


def changes(candidate: Answers, baseline: Answers) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The images that only the candidate gets right, and those that only the baseline does: bool [n] each."""
    return candidate.right & ~baseline.right, baseline.right & ~candidate.right


def top2(answers: Answers) -> float:
    """Share of the images whose class is one of the two most probable."""
    order = np.argsort(np.nan_to_num(answers.probabilities, nan=-1.0), axis=1)[:, -2:]
    return float((order == answers.labels[:, None]).any(axis=1).mean())


def calibration(answers: Answers, bins: int = 10) -> tuple[float, list[Bin]]:
    """The expected calibration error (https://arxiv.org/abs/1706.04599) and its curve, in bins of equal width."""
    confidence = np.nan_to_num(answers.probabilities, nan=0.0).max(axis=1).astype(np.float64)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    curve = [
        Bin(float(confidence[rows].mean()), float(answers.right[rows].mean()), int(rows.sum()))
        for rows in (number == index for index in range(bins))
        if rows.any()
    ]
    error = sum(abs(point.accuracy - point.confidence) * point.images for point in curve) / len(confidence)
    return error, curve


def worst(answers: Answers, chosen: npt.NDArray[np.bool_], most: int) -> list[int]:
    """The chosen images, those first in whose true class the model believes least; at most so many."""
    rows = np.flatnonzero(chosen)
    valid = np.clip(answers.labels[rows], 0, answers.probabilities.shape[1] - 1)
    belief = np.nan_to_num(answers.probabilities[rows, valid], nan=0.0)
    return rows[np.argsort(belief, kind="stable")][:most].tolist()
