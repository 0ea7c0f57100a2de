# SPDX-License-Identifier: Apache-2.0
"""Figures that can be worked out by hand or looked up."""

import math
import pathlib

import numpy as np
import pytest

from pipeline.report import figures
from pipeline.report.figures import Answers


def answers(labels: list[int], classes: list[int], confidence: float = 0.8) -> Answers:
    rows = np.full((len(classes), 3), (1 - confidence) / 2)
    rows[np.arange(len(classes)), classes] = confidence
    return Answers(np.array(labels), rows)


def test_confusion_counts_truth_by_answer() -> None:
    matrix = figures.confusion(answers([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_confusion_leaves_out_labels_that_are_no_class() -> None:
    assert figures.confusion(answers([7, 1], [0, 1])).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_wilson_interval() -> None:
    # Published example: 81 of 263, 95 %: 0.2553 to 0.3662 (Newcombe 1998, table I).
    found = figures.share(81, 263)
    assert found == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    everything, nothing = figures.share(5, 5), figures.share(0, 5)
    assert everything
    assert everything.high == 1.0
    assert nothing
    assert nothing.low == 0.0
    assert figures.share(0, 0) is None


def test_difference_of_paired_answers() -> None:
    labels = [0] * 100
    candidate = answers(labels, [0] * 90 + [1] * 10)
    baseline = answers(labels, [1] * 6 + [0] * 88 + [0] * 2 + [1] * 4)
    found = figures.difference(candidate, baseline)
    # Six images gained and six lost: no difference, and the standard error is sqrt(12) / 100.
    assert found.value == 0
    assert found.high == pytest.approx(1.96 * math.sqrt(12) / 100, rel=1e-4)
    assert found.low == -found.high
    gained, lost = figures.changes(candidate, baseline)
    assert np.flatnonzero(gained).tolist() == list(range(6))
    assert np.flatnonzero(lost).tolist() == list(range(90, 96))


def test_two_models_that_answer_alike_do_not_differ() -> None:
    same = answers([0, 1, 2], [0, 1, 1])
    assert figures.difference(same, same) == (0, 0, 0)


def test_worst_are_those_whose_truth_is_believed_least() -> None:
    rows = np.array([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    found = Answers(np.array([1, 0, 0, 0]), rows)
    assert figures.worst(found, ~found.right, 5) == [1, 2, 0]
    assert figures.worst(found, ~found.right, 2) == [1, 2]


def test_a_model_that_answers_nan_has_figures_all_the_same() -> None:
    broken = Answers(np.array([0, 1]), np.full((2, 3), np.nan))
    assert figures.confusion(broken).sum() == 2
    assert figures.worst(broken, ~broken.right, 5) == [1]


def test_load_gives_the_models_by_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "predictions.npz"
    np.savez(path, ids=np.array(["a#0", "a#1"]), labels=np.array([1, 0]), candidate=np.eye(3)[:2])
    ids, models = figures.load(path)
    assert ids == ["a#0", "a#1"]
    assert models["candidate"].classes.tolist() == [0, 1]
    assert models["candidate"].right.tolist() == [False, False]
