# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Model Analysis: all that is measured on the test split, for every model in one pass.

Each model is asked once, by `predictions`; TFMA gets the answers, so its Beam pipeline neither loads a model nor parses
an image. TFMA works through each example in Python, once for each slice that it is in. What is measured by slice needs
no more than whether an answer is right and how confident it is, so all images that are in the same slices go in as one
example with many answers: some 90 examples instead of 10,000 pay for the intervals of the whole split.
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
from components.evaluate.eval_configs import EvalConfigs
from components.evaluate.predictions import Predictions

_COMBINED = ("metrics", "plots", "attributions")
_SEED = 1  # of the jackknife's parts, so that the same answers have the same intervals


def measure(pipeline: beam.Pipeline, blocks: Sequence[Predictions], configs: EvalConfigs, output_path: str) -> None:
    """Adds TFMA to a Beam pipeline; when that has run, its results lie in `output_path` in TFMA's own format.

    Args:
        pipeline: an open pipeline.
        blocks: the predictions.
        configs: of `eval_configs.build`, for the same models.
        output_path: folder of a ModelEvaluation artifact.
    """
    unbatch = tfma.extractors.UnbatchExtractor()
    parts = [
        _evaluated(pipeline, "Whole", [_answers(block) for block in blocks], configs.whole, [unbatch]),
        _evaluated(pipeline, "Sliced", _groups(blocks), configs.sliced, []),
    ]
    results = evaluators.combine_dict_based_evaluations({key: [part[key] for part in parts] for key in _COMBINED})
    results["validations"] = [part["validations"] for part in parts] | "Validations" >> beam.Flatten()
    writers = tfma.default_writers(output_path=output_path, eval_config=configs.both)
    _ = results | "Write" >> tfma.WriteResults(writers=writers)


def _evaluated(
    pipeline: beam.Pipeline,
    name: str,
    extracts: list[dict[str, Any]],
    config: config_pb2.EvalConfig,
    extractors: list[Any],
) -> dict[str, beam.PCollection]:
    # Put together by hand: TFMA's defaults want a model of its own to load wherever a change is judged.
    evaluator = tfma.evaluators.MetricsPlotsAndValidationsEvaluator(eval_config=config, random_seed_for_testing=_SEED)
    return (
        pipeline
        | f"{name} answers" >> beam.Create(extracts, reshuffle=False)
        | f"Measure {name}"
        >> tfma.ExtractAndEvaluate(
            extractors=[*extractors, tfma.extractors.SliceKeyExtractor(eval_config=config)], evaluators=[evaluator]
        )
    )


def _answers(block: Predictions) -> dict[str, Any]:
    """A batch of examples: the label and each model's probabilities."""
    return {
        tfma.FEATURES_KEY: {},
        tfma.LABELS_KEY: block.labels[:, None],
        tfma.PREDICTIONS_KEY: _by_model(block.probabilities),
    }


def _groups(blocks: Sequence[Predictions]) -> list[dict[str, Any]]:
    """An example for all images in the same slices: whether each answer is right, and its confidence."""
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
    return [
        {
            tfma.FEATURES_KEY: {
                name: np.array([key[rows[0]]]) for name, key in zip((features.LABEL, *slices.GROUPS), keys, strict=True)
            },
            tfma.LABELS_KEY: _by_model({name: values[rows] for name, values in right.items()}),
            tfma.PREDICTIONS_KEY: _by_model({name: values[rows] for name, values in confidence.items()}),
            tfma.EXAMPLE_WEIGHTS_KEY: np.array([float(len(rows))]),
        }
        for rows in (np.flatnonzero(group_of == group) for group in range(group_of.max() + 1))
    ]


def _by_model(values: Mapping[str, npt.NDArray[Any]]) -> Any:
    """As TFMA wants them: under each model's name, unless there is but one."""
    return dict(values) if len(values) > 1 else next(iter(values.values()))
