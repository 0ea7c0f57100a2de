# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows: the curves and the graph, by Keras's own callback, and what is put beside them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from components import features
from components.train import pictures
from components.train.hyperparameters import Hyperparameters
from components.train.validation import Validation

_MISTAKES = 32  # images in the gallery


class Curves(keras.callbacks.TensorBoard):
    """Keras's own, which takes a millisecond for each batch to write nothing where it is to write once an epoch."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch)


class Board(keras.callbacks.Callback):
    """Writes the hyperparameters, and after each epoch pictures of how the network does on val, from its answers there.

    Tags:
        `val/confusion_matrix`: rows are the true classes.
        `val/mistakes`: the images in whose true class the network believes least, each with class, answer and the
            probability of the answer in percent.
    """

    def __init__(self, log_folder: str, validation: Validation, hyperparameters: Hyperparameters):
        """Prepares; `validation` must come before it among the callbacks."""
        super().__init__()
        self._validation = validation
        self._hyperparameters = {
            name: value for name, value in hyperparameters.to_config().items() if value is not None
        }
        self._writer = tf.summary.create_file_writer(log_folder)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        with self._writer.as_default():
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in self._hyperparameters],
                metrics=[
                    hparams.Metric("epoch_accuracy", group="validation", display_name="accuracy on val"),
                    hparams.Metric("epoch_loss", group="validation", display_name="loss on val"),
                ],
            )
            hparams.hparams(self._hyperparameters)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        probabilities, labels = self._validation.probabilities, self._validation.val.labels
        answers = probabilities.argmax(axis=1)
        known = np.flatnonzero((labels >= 0) & (labels < len(features.CLASSES)))
        matrix = np.zeros((len(features.CLASSES), len(features.CLASSES)), np.int64)
        np.add.at(matrix, (labels[known], answers[known]), 1)
        wrong = known[answers[known] != labels[known]]
        wrong = wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")][:_MISTAKES]
        with self._writer.as_default(step=epoch):
            tf.summary.image("val/confusion_matrix", pictures.confusion(matrix, features.CLASSES)[None])
            if len(wrong):
                captions = [
                    f"{features.CLASSES[labels[row]]} as {features.CLASSES[answers[row]]}, "
                    f"{100 * probabilities[row, answers[row]]:.0f}%"
                    for row in wrong
                ]
                tf.summary.image("val/mistakes", pictures.gallery(self._validation.val.images[wrong], captions)[None])
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.close()
