# SPDX-License-Identifier: Apache-2.0
"""TFMA on answers whose figures can be worked out by hand."""

import math
import pathlib

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from components import features
from components.evaluate import measure, slices
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


def answers(*classes: int) -> np.ndarray:
    probabilities = np.full((len(classes), 10), 0.02, np.float32)
    probabilities[np.arange(len(classes)), classes] = 0.82
    return probabilities


CANDIDATE = answers(0, 0, 0, 5, 1, 1, 1, 1)
PERFECT = answers(0, 0, 0, 0, 1, 1, 1, 1)


def run(folder: pathlib.Path, limits: ModelLimits = LIMITS, **models: np.ndarray) -> str:
    blocks = [
        Predictions(
            ids=np.array([b"x"] * 4),
            labels=LABELS[rows],
            slices=slices.group({name: values[rows] for name, values in SLICED.items()}),
            probabilities={name: values[rows] for name, values in models.items()},
        )
        for rows in (slice(0, 4), slice(4, 8))
    ]
    output = str(folder / "evaluation")
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        measure.measure(pipeline, blocks, measure.eval_config(list(models), limits, "cnn"), output)
    return output


def test_figures_of_a_first_candidate(tmp_path: pathlib.Path) -> None:
    output = run(tmp_path, candidate=CANDIDATE)
    figures = measure.load(output, None)
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
    assert measure.approved(output)


def test_each_model_gets_its_own_figures_and_a_loss_beyond_the_limit_is_not_approved(tmp_path: pathlib.Path) -> None:
    output = run(tmp_path, candidate=CANDIDATE, baseline=PERFECT, best=PERFECT)
    assert measure.load(output, "candidate")["accuracy"] == pytest.approx(7 / 8)
    assert measure.load(output, "baseline")["accuracy"] == pytest.approx(1.0)
    assert not measure.approved(output)  # 12.5 points lower, 10 are allowed


def test_a_better_candidate_is_approved_whatever_the_others_are(tmp_path: pathlib.Path) -> None:
    poor = answers(5, 5, 5, 5, 5, 5, 5, 5)
    assert measure.approved(run(tmp_path, candidate=CANDIDATE, baseline=poor, best=poor))


@pytest.mark.parametrize(
    "limits",
    [
        ModelLimits(accuracy={"cnn": 0.9}, recall=0.5, test_examples=4),
        ModelLimits(accuracy={"cnn": 0.7}, recall=0.8, test_examples=4),
        ModelLimits(accuracy={"cnn": 0.7}, recall=0.5, test_examples=9),
    ],
)
def test_tfma_judges_every_floor(tmp_path: pathlib.Path, limits: ModelLimits) -> None:
    assert not measure.approved(run(tmp_path, limits, candidate=CANDIDATE))
