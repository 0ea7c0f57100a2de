# SPDX-License-Identifier: Apache-2.0
"""TFMA on answers whose figures can be worked out by hand."""

import math
import pathlib

import apache_beam as beam
import keras
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from components import features
from components.evaluate import eval_config, metrics
from components.evaluate.limits import ModelLimits
from components.evaluate.predictions import Predictions

# The floor is above the recall of 0, and there are fewer examples of each class than there must be of all.
LIMITS = ModelLimits(accuracy={"cnn": 0.8}, change=0.1, best=0.1, recall=0.5, test_examples=8)
# Of four zeros the candidate knows three, of four ones all.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SLICED = {
    features.INK_SHARE: np.array([0.01, 0.109, 0.11, 0.12, 0.149, 0.15, 0.3, 0.5]),
    features.SLANT: np.array([-0.5, -0.1, 0, 0.1, 0.19, 0.2, 0.5, 0.7]),
}


def predictions(*classes: int) -> np.ndarray:
    probabilities = np.full((len(classes), 10), 0.02, np.float32)
    probabilities[np.arange(len(classes)), classes] = 0.82
    return probabilities


CANDIDATE = predictions(0, 0, 0, 5, 1, 1, 1, 1)
PERFECT = predictions(0, 0, 0, 0, 1, 1, 1, 1)


def run(folder: pathlib.Path, limits: ModelLimits = LIMITS, labels: np.ndarray = LABELS, **models: np.ndarray) -> str:
    half = len(labels) // 2
    blocks = [
        Predictions(
            ids=np.array([b"x"] * half),
            labels=labels[rows],
            slices=eval_config.slice_values(
                {name: np.resize(values, len(labels))[rows] for name, values in SLICED.items()}
            ),
            probabilities={name: values[rows] for name, values in models.items()},
        )
        for rows in (slice(0, half), slice(half, None))
    ]
    output = str(folder / "evaluation")
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        metrics.measure(pipeline, blocks, eval_config.build_eval_configs(list(models), limits, "cnn"), output)
    return output


def test_figures_of_a_first_candidate(tmp_path: pathlib.Path) -> None:
    output = run(tmp_path, candidate=CANDIDATE)
    figures = metrics.load_metrics(output, None)
    assert figures["accuracy"] == pytest.approx(7 / 8)
    assert figures["examples"] == 8
    assert figures["recall"] == {"0": pytest.approx(0.75), "1": pytest.approx(1.0)}
    assert figures["precision"] == {"0": 1.0, "1": 1.0, "5": 0.0}
    assert figures["f1"] == {"0": pytest.approx(6 / 7), "1": 1.0, "5": 0.0}
    assert figures["top2"] >= figures["accuracy"]
    assert [row[:6] for row in figures["confusion"][:2]] == [[3, 0, 0, 0, 0, 1], [0, 4, 0, 0, 0, 0]]
    assert np.sum(figures["confusion"]) == 8
    assert figures["slices"] == {
        features.INK_SHARE: {
            "below 11 %": {"accuracy": 1.0, "examples": 2},
            "11 to 15 %": {"accuracy": pytest.approx(2 / 3), "examples": 3},
            "15 % or more": {"accuracy": 1.0, "examples": 3},
        },
        features.SLANT: {
            "to the left": {"accuracy": 1.0, "examples": 2},
            "to the right, below 11°": {"accuracy": pytest.approx(2 / 3), "examples": 3},
            "to the right, 11° or more": {"accuracy": 1.0, "examples": 3},
        },
    }
    assert figures["loss"] == pytest.approx(-(7 * math.log(0.82) + math.log(0.02)) / 8, rel=1e-5)
    assert figures["calibration"]["error"] == pytest.approx(7 / 8 - 0.82)
    assert figures["calibration"]["curve"] == [
        {"confidence": pytest.approx(0.82), "accuracy": pytest.approx(7 / 8), "examples": 8}
    ]
    # Of eight images each is a part: the jackknife is then the standard error, with seven degrees of freedom.
    half = 2.3646 * math.sqrt(7 / 64 / 7)
    assert figures["intervals"]["accuracy"] == [pytest.approx(7 / 8 - half, abs=1e-4), 1.0]  # the other is above 1
    assert "change" not in figures["intervals"]
    assert metrics.is_approved(output)


def test_each_model_gets_its_own_figures_and_a_loss_beyond_the_limit_is_not_approved(tmp_path: pathlib.Path) -> None:
    output = run(tmp_path, candidate=CANDIDATE, baseline=PERFECT, best=PERFECT)
    assert metrics.load_metrics(output, "candidate")["accuracy"] == pytest.approx(7 / 8)
    assert metrics.load_metrics(output, "baseline")["accuracy"] == pytest.approx(1.0)
    assert not metrics.is_approved(output)  # 12.5 points lower, 10 are allowed


def test_a_better_candidate_is_approved_whatever_the_others_are(tmp_path: pathlib.Path) -> None:
    poor = predictions(5, 5, 5, 5, 5, 5, 5, 5)
    assert metrics.is_approved(run(tmp_path, candidate=CANDIDATE, baseline=poor, best=poor))


def test_intervals_are_those_of_the_answers_and_the_same_each_time(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 10, 800)
    wrong = rng.permutation(800)
    candidate, baseline = labels.copy(), labels.copy()
    candidate[wrong[:60]] += 1  # 40 of them are wrong for both
    baseline[wrong[20:110]] += 1
    rows, baseline_rows = predictions(*candidate % 10), predictions(*baseline % 10)
    first, second = (
        metrics.load_metrics(run(tmp_path / name, labels=labels, candidate=rows, baseline=baseline_rows), "candidate")[
            "intervals"
        ]
        for name in "ab"
    )
    assert first == second
    # Half the width of the normal interval: of one share, and of the difference of two on the same images.
    share = 1.96 * math.sqrt(60 / 800 * 740 / 800 / 800)
    change = 1.96 * math.sqrt(20 + 50 - (20 - 50) ** 2 / 800) / 800
    for name, middle, half in (("accuracy", 740 / 800, share), ("change", 30 / 800, change)):
        low, high = first[name]
        assert (low + high) / 2 == pytest.approx(middle, abs=half / 4), name
        assert (high - low) / 2 == pytest.approx(half, rel=0.5), name  # of twenty parts: good to a sixth


def test_figures_of_the_whole_are_those_of_keras_of_each_image(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 10, 100)
    sure = rng.dirichlet(np.full(10, 0.3), 100).astype(np.float32)
    sure[0], sure[1], sure[2] = 0.1, np.eye(10)[labels[1]], np.eye(10)[labels[2] - 1]  # a tie; no doubt; all wrong
    other = sure.copy()
    other[3:6] = np.nan
    labels[3] = 0  # Keras's argmax of NaN
    output = run(tmp_path, labels=labels, candidate=sure, baseline=other)
    candidate, nan = metrics.load_metrics(output, "candidate"), metrics.load_metrics(output, "baseline")
    for figures, rows in ((candidate, sure), (nan, other)):
        assert figures["examples"] == 100
        right = keras.metrics.sparse_categorical_accuracy(labels, rows)
        assert figures["accuracy"] == pytest.approx(np.mean(right), abs=1e-7)
        among = keras.metrics.sparse_top_k_categorical_accuracy(labels, rows, k=2)
        assert figures["top2"] == pytest.approx(np.mean(among), abs=1e-7)
        matrix = np.zeros((10, 10), int)
        np.add.at(matrix, (labels, rows.argmax(axis=1)), 1)
        assert figures["confusion"] == matrix.tolist()
    assert candidate["loss"] == pytest.approx(
        np.mean(keras.losses.sparse_categorical_crossentropy(labels, sure)), rel=1e-6
    )
    assert math.isnan(nan["loss"])
    assert "loss" not in nan["intervals"]


def test_a_single_image_has_figures_and_no_interval(tmp_path: pathlib.Path) -> None:
    figures = metrics.load_metrics(run(tmp_path, labels=np.array([4]), candidate=predictions(4)), None)
    assert (figures["accuracy"], figures["examples"], figures["intervals"]) == (1.0, 1, {})


def test_calibration_by_bin_of_confidence(tmp_path: pathlib.Path) -> None:
    rows = np.zeros((8, 10), np.float32)
    for row, sure in enumerate((0.52, 0.58, 0.93, 0.0, 1.0, 0.75, 1.0, 0.97)):
        rows[row, LABELS[row]], rows[row, 9] = sure, 1 - sure
    rows[1] = rows[1][::-1]  # the digit 9 is sure to be wrong
    rows[3] = np.nan
    calibration = metrics.load_metrics(run(tmp_path, candidate=rows), None)["calibration"]
    assert calibration["curve"] == [
        {"confidence": 0.0, "accuracy": 0.0, "examples": 1},  # NaN
        {"confidence": pytest.approx(0.55), "accuracy": 0.5, "examples": 2},
        {"confidence": 0.75, "accuracy": 1.0, "examples": 1},
        {"confidence": pytest.approx(0.975), "accuracy": 1.0, "examples": 4},
    ]
    assert calibration["error"] == pytest.approx((2 * 0.05 + 0.25 + 4 * 0.025) / 8)


@pytest.mark.parametrize(
    "limits",
    [
        ModelLimits(accuracy={"cnn": 0.9}, recall=0.5, test_examples=4),
        ModelLimits(accuracy={"cnn": 0.7}, recall=0.8, test_examples=4),
        ModelLimits(accuracy={"cnn": 0.7}, recall=0.5, test_examples=9),
    ],
)
def test_tfma_judges_every_floor(tmp_path: pathlib.Path, limits: ModelLimits) -> None:
    assert not metrics.is_approved(run(tmp_path, limits, candidate=CANDIDATE))
