# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Model Analysis: all that is measured on the test split, for every model in one pass.

Each model is asked once, by `predictions`; TFMA gets the answers, so its Beam pipeline neither loads a model nor parses
an image. TFMA works through each example in Python, once for each slice that it is in, so images go in together:

- For the whole split, as 20 examples, which are the parts of the jackknife of `answers`.
- By slice no more is needed than whether an answer is right and how confident it is. All images that are in the same
  slices are one example, some 90 in all; in it those that are right alike, and with confidences of the same bin, are
  one answer with their mean confidence and their number as its weight. All figures there follow from sums over images
  or over those of a bin, so they are what they would be of each image alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.evaluators import evaluator as evaluators
from tensorflow_model_analysis.proto import config_pb2

from components import features
from components.evaluate import slices
from components.evaluate.eval_configs import CALIBRATION_BINS, EvalConfigs
from components.evaluate.predictions import Predictions

_COMBINED = ("metrics", "plots", "attributions")
_WEIGHTED = (tfma.LABELS_KEY, tfma.PREDICTIONS_KEY, tfma.EXAMPLE_WEIGHTS_KEY)
_PARTS = 20  # of the jackknife, as many as TFMA's own has
_SEED = 1  # of the parts, so that the same answers have the same intervals


def measure(pipeline: beam.Pipeline, blocks: Sequence[Predictions], configs: EvalConfigs, output_path: str) -> None:
    """Adds TFMA to a Beam pipeline; when that has run, its results lie in `output_path` in TFMA's own format.

    Args:
        pipeline: an open pipeline.
        blocks: the predictions.
        configs: of `eval_configs.build`, for the same models.
        output_path: folder of a ModelEvaluation artifact.
    """
    parts = [
        _evaluated(pipeline, "Whole", _parts(blocks), configs.whole),
        _evaluated(pipeline, "Sliced", _groups(blocks), configs.sliced),
    ]
    results = evaluators.combine_dict_based_evaluations({key: [part[key] for part in parts] for key in _COMBINED})
    results["validations"] = [part["validations"] for part in parts] | "Validations" >> beam.Flatten()
    writers = tfma.default_writers(output_path=output_path, eval_config=configs.both)
    _ = results | "Write" >> tfma.WriteResults(writers=writers)


def _evaluated(
    pipeline: beam.Pipeline, name: str, extracts: list[dict[str, Any]], config: config_pb2.EvalConfig
) -> dict[str, beam.PCollection]:
    # Put together by hand: TFMA's defaults want a model of its own to load wherever a change is judged.
    return (
        pipeline
        | f"{name} answers" >> beam.Create(extracts, reshuffle=False)
        | f"Measure {name}"
        >> tfma.ExtractAndEvaluate(
            extractors=[tfma.extractors.SliceKeyExtractor(eval_config=config)],
            evaluators=[tfma.evaluators.MetricsPlotsAndValidationsEvaluator(eval_config=config)],
        )
    )


def _parts(blocks: Sequence[Predictions]) -> list[dict[str, Any]]:
    """An example for each part of the images: their labels and each model's probabilities."""
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
    """An example for all images in the same slices: answers that are right or not, their confidence, and how many."""
    labels = np.concatenate([block.labels for block in blocks])
    keys = [labels, *(np.concatenate([block.slices[name] for block in blocks]) for name in slices.GROUPS)]
    numbers = [np.unique(key, return_inverse=True)[1] for key in keys]
    right, confidence = {}, {}
    for name in blocks[0].probabilities:
        # An answer that is no number is wrong, and sure of nothing.
        answers = np.nan_to_num(np.concatenate([block.probabilities[name] for block in blocks]), nan=-1.0)
        sure = answers.max(axis=1)
        right[name] = ((answers.argmax(axis=1) == labels) & (sure >= 0)).astype(np.float64)
        confidence[name] = np.maximum(sure, 0.0).astype(np.float64)
    _, group_of = np.unique(np.stack(numbers), axis=1, return_inverse=True)
    group_of = group_of.reshape(-1)  # NumPy 2.0 gives it another axis
    examples = []
    for rows in (np.flatnonzero(group_of == group) for group in range(group_of.max() + 1)):
        alike = {name: _alike(right[name][rows], confidence[name][rows]) for name in right}
        examples.append(
            {
                tfma.FEATURES_KEY: {
                    name: np.array([key[rows[0]]])
                    for name, key in zip((features.LABEL, *slices.GROUPS), keys, strict=True)
                },
                **{key: _by_model({name: known[key] for name, known in alike.items()}) for key in _WEIGHTED},
            }
        )
    return examples


def _alike(right: npt.NDArray[np.float64], confidence: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Makes one of the answers that are right alike, with confidences of the same bin of the calibration."""
    bins = np.floor(confidence * CALIBRATION_BINS)
    kinds, kind_of, counts = np.unique(np.stack([right, bins]), axis=1, return_inverse=True, return_counts=True)
    means = np.bincount(kind_of.reshape(-1), confidence) / counts
    return dict(zip(_WEIGHTED, (kinds[0], means, counts.astype(np.float64)), strict=True))


def _by_model(values: Mapping[str, npt.NDArray[Any]]) -> Any:
    """As TFMA wants them: under each model's name, unless there is but one."""
    return dict(values) if len(values) > 1 else next(iter(values.values()))
