# SPDX-License-Identifier: Apache-2.0
"""Training itself: fit a compiled network for a number of steps."""

from __future__ import annotations

import dataclasses
import logging

import keras
import numpy as np
import tensorflow as tf

from components.train import data
from components.train.board import Board
from components.train.callbacks import History, NanWatch, StopAfter
from components.train.checkpoints import Checkpoints
from components.train.hyperparameters import Hyperparameters

_progress = logging.getLogger("progress")

# A small data set has many short passes; several of them make one epoch, so that reports and validations stay few.
MOST_EPOCHS = 20
_VALIDATION_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training leaves behind beside the weights: the contents of training.json.

    Attributes:
        devices: names of the devices that computed, such as "CPU:0".
        steps: steps done.
        epochs: the rows of `callbacks.History`.
        seconds: wall time of the training, validations included; of all processes that had a part in it.
        parameters: number of trainable parameters.
    """

    devices: list[str]
    steps: int
    epochs: list[dict[str, float]]
    seconds: float
    parameters: int


def fit(
    network: keras.Model,
    hyperparameters: Hyperparameters,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    log_folder: str,
    checkpoint_folder: str = "",
) -> Training:
    """Trains a compiled network in place.

    Args:
        network: takes float32 [n, height, width, 1].
        hyperparameters: batch size, steps and seed are taken from here.
        train: images float32 [n, height, width, 1] in [0, 1] and labels int64 [n].
        val: the same, only measured.
        log_folder: for TensorBoard: loss, accuracy, learning rate, graph, and what `board` adds.
        checkpoint_folder: for the state after each epoch; a training that finds one there goes on from it. "" for none.

    Raises:
        GateStopped: if the loss or a weight becomes something else than a finite number.
    """
    rows: list[dict[str, float]] = []
    checkpoints = Checkpoints(checkpoint_folder, network, rows) if checkpoint_folder else None
    if checkpoints and checkpoints.restore():
        _progress.info("going on after epoch %d", len(rows))
    steps, done = hyperparameters.train_steps, int(rows[-1]["steps"]) if rows else 0
    one_pass = data.steps_per_pass(len(train[0]), hyperparameters.batch_size)
    passes = max(1, -(-steps // (one_pass * MOST_EPOCHS)))
    epochs = -(-steps // (one_pass * passes))
    callbacks = [
        StopAfter(steps - done),
        NanWatch(done, steps, hyperparameters.learning_rate),
        History(rows, epochs, steps),
        keras.callbacks.TensorBoard(log_folder, write_graph=True),
        Board(log_folder, val, hyperparameters),
        *([checkpoints] if checkpoints else []),
    ]
    network.fit(
        data.batches(*train, hyperparameters.batch_size, hyperparameters.seed, first_pass=len(rows) * passes),
        validation_data=val,
        validation_batch_size=_VALIDATION_BATCH,
        initial_epoch=len(rows),
        epochs=epochs,
        steps_per_epoch=one_pass * passes,
        callbacks=callbacks,
        shuffle=False,  # the batches are shuffled already
        verbose=0,
    )
    return Training(
        devices=_devices(),
        steps=int(rows[-1]["steps"]),
        epochs=rows,
        seconds=rows[-1]["seconds"],
        parameters=sum(int(np.prod(variable.shape)) for variable in network.trainable_variables),
    )


def _devices() -> list[str]:
    """The devices that Keras places variables and steps on: the GPU where TensorFlow sees one, else the CPU."""
    devices = tf.config.list_logical_devices("GPU")[:1] or tf.config.list_logical_devices("CPU")[:1]
    return [device.name.removeprefix("/device:") for device in devices]
