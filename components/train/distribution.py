# SPDX-License-Identifier: Apache-2.0
"""Training on several devices, of one machine or of several workers: the strategy, and a `fit` for its replicas.

Keras 3 does not support `Model.fit` under MultiWorkerMirroredStrategy. The `fit` here takes its place on two or more
replicas, with the same callbacks and logs; on one device Keras's own is used.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from components.errors import GateStopped
from components.train import data, devices
from components.train.data import InMemoryDataset
from components.train.devices import Compute, PeerLost
from components.train.hyperparameters import Hyperparameters

GRADIENT_NORM = "gradient_norm"
# NVIDIA's first GPUs with bfloat16.
_BFLOAT16_CAPABILITY = (8, 0)
_GATE_STOP_DELAY_SECONDS = 5.0
# Offset between the random seeds of two replicas.
_SEED_STRIDE = 7919


def build_strategy(compute: Compute) -> tf.distribute.Strategy:
    """Returns the strategy for the requested devices; must be called before TensorFlow runs any operation.

    It is MultiWorkerMirroredStrategy if TF_CONFIG in the environment names several workers, MirroredStrategy for
    several GPUs, else TensorFlow's default strategy for one device.

    Raises:
        BadInput: TensorFlow sees fewer GPUs than requested, or TF_CONFIG cannot be read.
    """
    devices.prepare(compute)
    if compute.accelerator == devices.CPU and tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    if devices.worker_count() > 1:
        tf.config.set_visible_devices(tf.config.get_visible_devices("GPU")[: compute.gpus], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy()
    local_devices = _local_devices(compute)
    return tf.distribute.MirroredStrategy(local_devices) if len(local_devices) > 1 else tf.distribute.get_strategy()


@contextlib.contextmanager
def watch_peers() -> Iterator[None]:
    """Raises PeerLost if another worker stops responding.

    TensorFlow notices at once when a worker exits, and within half a minute when it is silent. A worker that is stopped
    by a gate therefore waits a few seconds, so that its peers, which the same step stops, don't see it as lost.
    """
    try:
        yield
    except GateStopped:
        if devices.worker_count() > 1:
            time.sleep(_GATE_STOP_DELAY_SECONDS)
        raise
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    ) as error:
        if devices.worker_count() <= 1:
            raise
        raise PeerLost(
            f"all workers of a training must respond until it ends, but one of them did not ({type(error).__name__}); "
            "restart all of them to resume from the last checkpoint"
        ) from error


def scale(hyperparameters: Hyperparameters, replicas: int) -> Hyperparameters:
    """Converts the hyperparameters of one device to those of a step that N replicas take together.

    The batch is N times as large; the learning rate sqrt(N) times as high, which preserves the effect of gradient noise
    on Adam (S. Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022); and there are N
    times fewer steps, rounded up, for the same number of images.
    """
    return hyperparameters.model_copy(
        update={
            "batch_size": hyperparameters.batch_size * replicas,
            "learning_rate": hyperparameters.learning_rate * math.sqrt(replicas),
            "train_steps": -(-hyperparameters.train_steps // replicas),
        }
    )


def resolve_precision(compute: Compute) -> str:
    """Returns FLOAT32 or BFLOAT16, the precision of the layers' computations."""
    if compute.precision != devices.AUTO:
        return compute.precision
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    supported = [detail.get("compute_capability", (0, 0)) >= _BFLOAT16_CAPABILITY for detail in details]
    return devices.BFLOAT16 if supported and all(supported) else devices.FLOAT32


def device_names(strategy: tf.distribute.Strategy) -> list[str]:
    """Returns the training devices, such as "CPU:0", "GPU:1 (NVIDIA A100)" or "worker 1 GPU:0".

    All workers are assumed to have the same devices.
    """
    if strategy.num_replicas_in_sync == 1:
        logical = (tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"))[:1]
        return [_describe_device(device.name) for device in logical]
    names = [_describe_device(name) for name in strategy.extended.worker_devices]
    workers = devices.worker_count()
    return [f"worker {worker} {name}" for worker in range(workers) for name in names] if workers > 1 else names


def _describe_device(device: str) -> str:
    name = device.rpartition("device:")[2]
    kind, _, index = name.partition(":")
    if kind != "GPU":
        return name
    details = tf.config.experimental.get_device_details(tf.config.get_visible_devices("GPU")[int(index)])
    return f"{name} ({details['device_name']})" if "device_name" in details else name


def _local_devices(compute: Compute) -> list[str]:
    """Returns the names of this machine's devices if there is more than one to train on."""
    return [f"GPU:{index}" for index in range(compute.gpus)] if compute.gpus > 1 else []


def compute_gradients(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Returns the loss of a batch, float32 []; its probabilities, float32 [n, classes]; the gradient of each variable.

    Under a strategy the loss is divided by the number of replicas, so that their sum is the loss of the whole batch.
    """
    with tf.GradientTape() as tape:
        probabilities = network(images, training=True)
        loss = network.compute_loss(images, labels, probabilities, training=True)
    grads = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
    return loss, probabilities, grads


def log_gradient_norm(network: keras.Model) -> None:
    """Makes Keras's `fit` log the global norm of each step's gradient as `gradient_norm`."""

    def train_step(batch: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        images, labels = batch
        loss, probabilities, grads = compute_gradients(network, images, labels)
        network.optimizer.apply(grads, network.trainable_variables)
        for metric in network.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(labels, probabilities)
        return {**network.get_metrics_result(), GRADIENT_NORM: tf.linalg.global_norm(grads)}

    network.train_step = train_step


def fit(
    network: keras.Model,
    strategy: tf.distribute.Strategy,
    train: InMemoryDataset,
    hyperparameters: Hyperparameters,
    callbacks: Sequence[keras.callbacks.Callback],
    *,
    initial_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    first_pass: int,
) -> None:
    """Trains, in place, a network that was built and compiled in the strategy's scope.

    Each replica takes an equal part of every batch, and gradients are summed over replicas before the weights change.
    Each has its own random numbers. Each updates batch norm's moving averages with its own images; they are averaged
    over replicas after every epoch. Callbacks get the same logs in every process and so decide alike, but a request to
    stop is still shared, because processors may differ in the last bit.

    Args:
        network: its random state is the first replica's.
        strategy: with two or more replicas.
        train: all images, the same in every process.
        hyperparameters: of all replicas together, see `scale`.
        callbacks: get logs like those of `keras.Model.fit`.
        initial_epoch: index of the first epoch, from 0.
        epochs: index of the last epoch, plus 1.
        steps_per_epoch: steps in each epoch.
        first_pass: index of the first pass over the images, see `data.train_batches`.
    """
    replicas = strategy.num_replicas_in_sync

    def make_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
        count = replicas // context.num_input_pipelines
        shards = slice(context.input_pipeline_id * count, (context.input_pipeline_id + 1) * count)
        return data.train_batches(
            train, hyperparameters.batch_size, hyperparameters.seed, first_pass, replicas=replicas, shards=shards
        )

    def replica_step(batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        images, labels = batch
        loss, probabilities, grads = compute_gradients(network, images, labels)
        network.optimizer.apply(grads, network.trainable_variables)
        accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(probabilities, axis=-1), labels), tf.float32))
        metrics = tf.stack([loss, accuracy / replicas, tf.linalg.global_norm(grads)])
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, metrics)

    @tf.function
    def train_step(iterator: tf.distribute.DistributedIterator) -> tf.Tensor:
        return strategy.run(replica_step, args=(next(iterator),))

    _decorrelate_seeds(network, strategy)
    iterator = iter(strategy.distribute_datasets_from_function(make_dataset))
    callback_list = keras.callbacks.CallbackList(
        list(callbacks), add_history=False, add_progbar=False, model=network, epochs=epochs, steps=steps_per_epoch
    )
    network.stop_training = False
    callback_list.on_train_begin()
    logs: dict[str, float] = {}
    for epoch in range(initial_epoch, epochs):
        callback_list.on_epoch_begin(epoch)
        loss_sum = accuracy_sum = 0.0
        for step in range(steps_per_epoch):
            callback_list.on_train_batch_begin(step)
            metrics = strategy.experimental_local_results(train_step(iterator))[0]
            loss, accuracy, norm = (float(value) for value in metrics)
            loss_sum, accuracy_sum = loss_sum + loss, accuracy_sum + accuracy
            logs = {"loss": loss_sum / (step + 1), "accuracy": accuracy_sum / (step + 1), GRADIENT_NORM: norm}
            callback_list.on_train_batch_end(step, logs)
            if network.stop_training:
                break
        _average_untrained_weights(network, strategy)
        logs = dict(logs)
        callback_list.on_epoch_end(epoch, logs)
        network.stop_training = sum_over_replicas(strategy, float(network.stop_training)) > 0
        if network.stop_training:
            break
    callback_list.on_train_end(logs)


def sum_over_replicas(strategy: tf.distribute.Strategy, value: float) -> float:
    """Returns the sum of a number over all replicas; each process passes its own value."""

    @tf.function
    def all_reduce(tensor: tf.Tensor) -> tf.Tensor:
        def on_replica() -> tf.Tensor:
            # The identity places the tensor on the replica's device.
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))

        return strategy.run(on_replica)

    return float(strategy.experimental_local_results(all_reduce(tf.constant(value)))[0])


def _decorrelate_seeds(network: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Shifts the random state of every replica but the first; without it all draw the same numbers."""
    weights = {id(weight) for weight in network.weights}
    states = [variable.value for variable in network.variables if id(variable) not in weights]

    @tf.function
    def shift() -> None:
        def on_replica() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for state in states:
                state.assign(state + tf.cast(_SEED_STRIDE * replica, state.dtype) * tf.constant([1, 0], state.dtype))

        strategy.run(on_replica)

    if states:
        shift()


def _average_untrained_weights(network: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Averages over all replicas the weights without gradients, such as batch norm's moving averages."""
    weights = [weight.value for weight in network.non_trainable_weights]

    @tf.function
    def average() -> None:
        def on_replica() -> None:
            context = tf.distribute.get_replica_context()
            for weight in weights:
                weight.assign(context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.convert_to_tensor(weight)))

        strategy.run(on_replica)

    if weights:
        average()
