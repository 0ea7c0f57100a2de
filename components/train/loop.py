# SPDX-License-Identifier: Apache-2.0
"""Training itself: from hyperparameters and images to the network that is exported."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from components import progress
from components.errors import ProjectError
from components.train import data, devices, models, optimization, replicas
from components.train.callbacks import BestWeights, DivergenceWatch, EpochValidation, History, StopAfter
from components.train.checkpoints import Checkpoints
from components.train.data import InMemoryDataset
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters
from components.train.optimization import watch_gradients
from components.train.tensorboard import StepCurves, TensorBoardLogs

# A small data set has many short passes; several of them make one epoch, so that reports and validations stay few.
MOST_EPOCHS = 20


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training leaves behind beside the weights: the contents of training.json.

    Attributes:
        devices: names of the devices that computed, such as "CPU:0".
        precision: what their layers computed in, "float32" or "bfloat16".
        batch_size: images per step of all devices together.
        steps: steps done.
        epochs: the rows of `callbacks.History`.
        best_epoch: the epoch, from 1, whose weights are exported.
        stopped_early: whether it ended before its last step, as `patience` says.
        seconds: wall time of the training, validations included; of all processes that had a part in it.
        parameters: number of trainable parameters.
    """

    devices: list[str]
    precision: str
    batch_size: int
    steps: int
    epochs: list[dict[str, float]]
    best_epoch: int
    stopped_early: bool
    seconds: float
    parameters: int


def train(
    hyperparameters: Hyperparameters,
    compute: Compute,
    strategy: tf.distribute.Strategy,
    train: InMemoryDataset,
    val: InMemoryDataset,
    log_folder: str,
    checkpoint_folder: str = "",
) -> tuple[keras.Model, Training]:
    """Builds a network and trains it.

    Args:
        hyperparameters: of one device, see `devices.scaled`.
        compute: the precision is taken from here.
        strategy: see `devices.strategy`.
        train: images and labels to train on.
        val: the same, only measured.
        log_folder: for TensorBoard, see `fit`.
        checkpoint_folder: for the state after each epoch, see `fit`.

    Returns:
        The network with the weights to export, all of it in float32, and how it came to them.

    Raises:
        GateStopped: if the training diverges.
        devices.PeerLost: if another worker has gone.
    """
    together = devices.scaled(hyperparameters, strategy.num_replicas_in_sync)
    alone = strategy.num_replicas_in_sync == 1
    precision = devices.precision(compute)
    keras.utils.set_random_seed(hyperparameters.seed)
    with strategy.scope(), _computing_in(precision):
        network = models.build(together)
        # XLA has not been tried where steps talk to other devices.
        jit_compile = alone and bool(tf.config.list_logical_devices("GPU"))
        optimization.compile_network(network, together, jit_compile=jit_compile)
        network.optimizer.build(network.trainable_variables)
    exported = models.for_inference(models.build(together))
    training = fit(network, exported, together, train, val, log_folder, checkpoint_folder, strategy)
    return exported, dataclasses.replace(training, precision=precision)


def fit(
    network: keras.Model,
    exported: keras.Model,
    hyperparameters: Hyperparameters,
    train: InMemoryDataset,
    val: InMemoryDataset,
    log_folder: str,
    checkpoint_folder: str = "",
    strategy: tf.distribute.Strategy | None = None,
) -> Training:
    """Trains a compiled network in place.

    Args:
        network: takes float32 [n, height, width, 1].
        exported: the same in float32, without a strategy; has the best epoch's weights in the end.
        hyperparameters: batch size, steps, seed and patience are taken from here; of all devices together.
        train: images and labels to train on.
        val: the same, only measured.
        log_folder: for TensorBoard: loss, accuracy, learning rate, graph, and what `board` adds.
        checkpoint_folder: folder or URL for the state after each epoch; a training that finds one there goes on from
            it. "" for none.
        strategy: in whose scope the network was built; TensorFlow's default one if None.

    Raises:
        GateStopped: if the loss, the gradient or a weight becomes something else than a finite number.
    """
    strategy = strategy or tf.distribute.get_strategy()
    alone, chief = strategy.num_replicas_in_sync == 1, devices.is_chief()
    rows: list[dict[str, float]] = []
    best = BestWeights(exported, rows, len(val), hyperparameters.patience)
    checkpoints = Checkpoints(checkpoint_folder, network, rows, best) if checkpoint_folder else None
    if checkpoints and checkpoints.restore():
        progress.report(progress.Message(f"going on after epoch {len(rows)}"))
    if not alone and replicas.total(strategy, len(rows)) != len(rows) * strategy.num_replicas_in_sync:
        raise ProjectError(
            f"all workers must find the same checkpoint, but this one found that of epoch {len(rows)} and another one "
            "found another; name a folder or URL for checkpoints that all of them share"
        )
    steps, done = hyperparameters.train_steps, int(rows[-1]["steps"]) if rows else 0
    one_pass = data.steps_per_pass(len(train), hyperparameters.batch_size)
    passes = max(1, -(-steps // (one_pass * MOST_EPOCHS)))
    epochs = -(-steps // (one_pass * passes))
    validation = EpochValidation(exported, val)
    callbacks = [
        StopAfter(steps - done),
        # As a person gave it, so that a lower one is lower.
        DivergenceWatch(done, steps, hyperparameters.learning_rate / math.sqrt(strategy.num_replicas_in_sync)),
        validation,
        History(rows, epochs, steps, show=chief),
        best,
    ]
    if chief:
        callbacks += [
            StepCurves(log_folder, write_graph=True),
            TensorBoardLogs(log_folder, validation, hyperparameters),
            *([checkpoints] if checkpoints else []),
        ]
    first_pass = len(rows) * passes
    if done >= steps or best.had_enough:
        pass
    elif alone:
        watch_gradients(network)
        batches = data.batches(train, hyperparameters.batch_size, hyperparameters.seed, first_pass)
        gpu = tf.config.list_logical_devices("GPU")
        network.fit(
            data.on_device(batches, gpu[0].name) if gpu else batches,
            initial_epoch=len(rows),
            epochs=epochs,
            steps_per_epoch=one_pass * passes,
            callbacks=callbacks,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
    else:
        replicas.fit(
            network,
            strategy,
            train,
            hyperparameters,
            callbacks,
            first_epoch=len(rows),
            epochs=epochs,
            steps_per_epoch=one_pass * passes,
            first_pass=first_pass,
        )
    exported.set_weights(best.weights)
    return Training(
        devices=devices.names(strategy),
        precision=devices.FLOAT32,
        batch_size=hyperparameters.batch_size,
        steps=int(rows[-1]["steps"]),
        epochs=rows,
        best_epoch=best.epoch,
        stopped_early=int(rows[-1]["steps"]) < steps,
        seconds=rows[-1]["seconds"],
        parameters=sum(int(np.prod(variable.shape)) for variable in network.trainable_variables),
    )


@contextlib.contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    """Layers that are built within compute in this precision; their weights are float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == devices.BFLOAT16 else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
