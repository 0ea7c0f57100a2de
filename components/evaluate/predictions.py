# SPDX-License-Identifier: Apache-2.0
"""Runs exported models on the test images as a server does: in batches, through a signature."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from components import datasets, features
from components.evaluate import eval_config

_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A block of examples with each model's predictions.

    Attributes:
        ids: bytes [n].
        labels: int64 [n].
        slices: name of a slicing feature -> values [n].
        probabilities: name of a model -> float32 [n, classes].
    """

    ids: np.ndarray
    labels: np.ndarray
    slices: Mapping[str, np.ndarray]
    probabilities: Mapping[str, np.ndarray]


def save(path: pathlib.Path, blocks: Sequence[Predictions]) -> None:
    """Writes all predictions as one .npz file: `ids`, `labels`, and for each model its probabilities under its name."""
    columns = {
        name: np.concatenate([block.probabilities[name] for block in blocks]) for name in blocks[0].probabilities
    }
    np.savez(
        path,
        allow_pickle=False,
        ids=np.array([name.decode() for block in blocks for name in block.ids.tolist()]),
        labels=np.concatenate([block.labels for block in blocks]),
        **columns,
    )


def predict(split_folder: str, models: Mapping[str, pathlib.Path]) -> Iterator[Predictions]:
    """Runs every model over the TFRecords of a split.

    Args:
        split_folder: folder with the uncompressed TFRecords of tf.Examples.
        models: name -> folder of a SavedModel with the signature `features.SIGNATURE_EXAMPLES`.

    Yields:
        Blocks of at most 1,000 examples, in the order of the files.
    """
    loaded = {name: tf.saved_model.load(str(folder)) for name, folder in models.items()}
    signatures = {name: model.signatures[features.SIGNATURE_EXAMPLES] for name, model in loaded.items()}
    files = datasets.files(split_folder)
    spec = {
        features.ID: tf.io.FixedLenFeature([], tf.string),
        features.LABEL: tf.io.FixedLenFeature([], tf.int64),
        **{name: tf.io.FixedLenFeature([], tf.float32) for name in eval_config.GROUPS},
    }
    for serialized in datasets.records(files).batch(_BATCH).prefetch(2):
        parsed = tf.io.parse_example(serialized, spec)
        yield Predictions(
            ids=parsed[features.ID].numpy(),
            labels=parsed[features.LABEL].numpy(),
            slices=eval_config.slice_values({name: parsed[name].numpy() for name in eval_config.GROUPS}),
            probabilities={
                name: signature(**{features.EXAMPLES_INPUT: serialized})[features.PROBABILITIES_OUTPUT].numpy()
                for name, signature in signatures.items()
            },
        )
