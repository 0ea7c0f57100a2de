# SPDX-License-Identifier: Apache-2.0
"""Statistics that can be computed by hand or looked up."""

import math
import pathlib

import numpy as np
import pytest

from pipeline.report import figures
from pipeline.report.figures import SplitPredictions


def predictions(labels: list[int], classes: list[int], confidence: float = 0.8) -> SplitPredictions:
    rows = np.full((len(classes), 3), (1 - confidence) / 2)
    rows[np.arange(len(classes)), classes] = confidence
    return SplitPredictions(np.array(labels), rows)


def test_confusion_counts_true_by_predicted_class() -> None:
    matrix = figures.confusion(predictions([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_confusion_leaves_out_labels_that_are_not_a_class() -> None:
    assert figures.confusion(predictions([7, 1], [0, 1])).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_wilson_interval() -> None:
    # Published example: 81 of 263, 95 %: 0.2553 to 0.3662 (Newcombe 1998, table I).
    interval = figures.share(81, 263)
    assert interval == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    all_of_five, none_of_five = figures.share(5, 5), figures.share(0, 5)
    assert all_of_five
    assert all_of_five.high == 1.0
    assert none_of_five
    assert none_of_five.low == 0.0
    assert figures.share(0, 0) is None


def test_difference_of_paired_predictions() -> None:
    labels = [0] * 100
    candidate = predictions(labels, [0] * 90 + [1] * 10)
    baseline = predictions(labels, [1] * 6 + [0] * 88 + [0] * 2 + [1] * 4)
    difference = figures.difference(candidate, baseline)
    # Six images gained and six lost: no difference, and the standard error is sqrt(12) / 100.
    assert difference.value == 0
    assert difference.high == pytest.approx(1.96 * math.sqrt(12) / 100, rel=1e-4)
    assert difference.low == -difference.high
    gained, lost = figures.changes(candidate, baseline)
    assert np.flatnonzero(gained).tolist() == list(range(6))
    assert np.flatnonzero(lost).tolist() == list(range(90, 96))


def test_two_models_with_the_same_predictions_do_not_differ() -> None:
    same = predictions([0, 1, 2], [0, 1, 1])
    assert figures.difference(same, same) == (0, 0, 0)


def test_worst_have_the_lowest_probability_of_the_true_class() -> None:
    rows = np.array([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    predicted = SplitPredictions(np.array([1, 0, 0, 0]), rows)
    assert figures.worst(predicted, ~predicted.correct, 5) == [1, 2, 0]
    assert figures.worst(predicted, ~predicted.correct, 2) == [1, 2]


def test_nan_predictions_have_statistics() -> None:
    broken = SplitPredictions(np.array([0, 1]), np.full((2, 3), np.nan))
    assert figures.confusion(broken).sum() == 2
    assert figures.worst(broken, ~broken.correct, 5) == [1]


def test_load_gives_the_models_by_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.npz"
    np.savez(path, ids=np.array(["a#0", "a#1"]), labels=np.array([1, 0]), candidate=np.eye(3)[:2])
    ids, models = figures.load(path)
    assert ids == ["a#0", "a#1"]
    assert models["candidate"].classes.tolist() == [0, 1]
    assert models["candidate"].correct.tolist() == [False, False]
