# SPDX-License-Identifier: Apache-2.0
"""Training on several devices together, of one machine or of several: what Keras's `fit` does on one.

Keras 3 cannot `fit` under MultiWorkerMirroredStrategy, so this loop stands in for it, with the same callbacks and logs.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from components.train import data
from components.train.data import InMemoryDataset
from components.train.hyperparameters import Hyperparameters
from components.train.optimization import GRADIENT_NORM, compute_gradients

# Between the random numbers of one replica and the next.
_SEED_STRIDE = 7919


def fit(
    network: keras.Model,
    strategy: tf.distribute.Strategy,
    train: InMemoryDataset,
    hyperparameters: Hyperparameters,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    first_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    first_pass: int,
) -> None:
    """Trains a network that was built and compiled in the strategy's scope, in place.

    Each replica has an equal part of every batch; gradients are summed over all of them before they change weights.
    Each draws random numbers of its own, and batch norm's moving averages, to which each adds those of its own images,
    are averaged after each epoch. What callbacks are told is the same in every process, so they decide alike; that one
    of them wants to stop is passed on nevertheless, as processors may differ in the last bit.

    Args:
        network: its random numbers are those of the first replica.
        strategy: of all replicas.
        train: all images, the same in every process.
        hyperparameters: those of a step of all replicas together, see `devices.scaled`.
        callbacks: with logs like those of `fit`.
        first_epoch: number of the first epoch, from 0.
        epochs: number of the last one, from 1.
        steps_per_epoch: steps in each.
        first_pass: the pass over the images to begin with.
    """
    replicas = strategy.num_replicas_in_sync
    batch_size = hyperparameters.batch_size

    def of_this_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        count = replicas // context.num_input_pipelines
        mine = slice(context.input_pipeline_id * count, (context.input_pipeline_id + 1) * count)
        return data.batches(train, batch_size, hyperparameters.seed, first_pass, replicas, mine)

    def on_replica(batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        images, labels = batch
        loss, answers, steepest = compute_gradients(network, images, labels)
        network.optimizer.apply(steepest, network.trainable_variables)
        right = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(answers, axis=-1), labels), tf.float32))
        own = tf.stack([loss, right / replicas, tf.linalg.global_norm(steepest)])
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)

    @tf.function
    def step(iterator: tf.distribute.DistributedIterator) -> tf.Tensor:
        return strategy.run(on_replica, args=(next(iterator),))

    _draw_differently(network, strategy)
    iterator = iter(strategy.distribute_datasets_from_function(of_this_worker))
    told = keras.callbacks.CallbackList(
        list(callbacks), add_history=False, add_progbar=False, model=network, epochs=epochs, steps=steps_per_epoch
    )
    network.stop_training = False
    told.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in range(first_epoch, epochs):
        told.on_epoch_begin(epoch)
        losses = rights = 0.0
        for number in range(steps_per_epoch):
            told.on_train_batch_begin(number)
            loss, right, norm = (float(value) for value in strategy.experimental_local_results(step(iterator))[0])
            losses, rights = losses + loss, rights + right
            logs = {"loss": losses / (number + 1), "accuracy": rights / (number + 1), GRADIENT_NORM: norm}
            told.on_train_batch_end(number, logs)
            if network.stop_training:
                break
        _average(network, strategy)
        logs = dict(logs)
        told.on_epoch_end(epoch, logs)
        network.stop_training = total(strategy, float(network.stop_training)) > 0
        if network.stop_training:
            break
    told.on_train_end(logs)


def total(strategy: tf.distribute.Strategy, value: float) -> float:
    """The sum, over all replicas, of a number that each process gives."""

    @tf.function
    def summed(own: tf.Tensor) -> tf.Tensor:
        def on_replica() -> tf.Tensor:
            # What comes from outside of the replica lies on no device of it.
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(own))

        return strategy.run(on_replica)

    return float(strategy.experimental_local_results(summed(tf.constant(value)))[0])


def _draw_differently(network: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Gives each replica random numbers of its own; all have those of the first until then."""
    weights = {id(weight) for weight in network.weights}
    states = [one.value for one in network.variables if id(one) not in weights]

    @tf.function
    def shift() -> None:
        def on_replica() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for state in states:
                state.assign(state + tf.cast(_SEED_STRIDE * number, state.dtype) * tf.constant([1, 0], state.dtype))

        strategy.run(on_replica)

    if states:
        shift()


def _average(network: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Gives all replicas the mean of what each has in the weights that no gradient changes."""
    weights = [one.value for one in network.non_trainable_weights]

    @tf.function
    def averaged() -> None:
        def on_replica() -> None:
            context = tf.distribute.get_replica_context()
            for weight in weights:
                weight.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.convert_to_tensor(weight)))

        strategy.run(on_replica)

    if weights:
        averaged()
