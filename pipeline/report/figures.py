# SPDX-License-Identifier: Apache-2.0
"""What follows from the answers to the test images: confusion, intervals, which images went wrong.

Nothing here judges: the gates' results are the record's.
"""

from __future__ import annotations

import math
import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from components import intervals

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
    """A share with Wilson's interval; None of nothing."""
    if not count:
        return None
    return Interval(right / count, *intervals.wilson(right, count))


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


def worst(answers: Answers, chosen: npt.NDArray[np.bool_], most: int) -> list[int]:
    """The chosen images, those first in whose true class the model believes least; at most so many."""
    rows = np.flatnonzero(chosen)
    valid = np.clip(answers.labels[rows], 0, answers.probabilities.shape[1] - 1)
    belief = np.nan_to_num(answers.probabilities[rows, valid], nan=0.0)
    return rows[np.argsort(belief, kind="stable")][:most].tolist()
