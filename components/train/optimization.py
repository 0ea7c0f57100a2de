# SPDX-License-Identifier: Apache-2.0
"""What a network is trained towards, and how: loss, optimizer, learning rate. Keras alone, for any of its backends."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.train.hyperparameters import Hyperparameters

_WARM_UP_STEPS = 100


def compile_network(network: keras.Model, hyperparameters: Hyperparameters, jit_compile: bool = False) -> None:
    """Cross-entropy, the learning rate rising over a short warm-up and falling to 0 along a cosine.

    The fall to 0 does what averaging the last weights would: on few steps it is worth more than any other single thing.
    (Loshchilov and Hutter, "SGDR", 2017.)

    Args:
        network: is compiled in place.
        hyperparameters: model, learning rate and number of steps are taken from here.
        jit_compile: whether XLA compiles the steps. For a GPU; it makes these convolutions three times slower on a CPU,
            on top of the time that compiling takes. JAX always compiles: without, it goes operation by operation.
    """
    warm_up = min(_WARM_UP_STEPS, hyperparameters.train_steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=hyperparameters.learning_rate if not warm_up else 0.0,
        decay_steps=max(1, hyperparameters.train_steps - warm_up),
        warmup_target=hyperparameters.learning_rate if warm_up else None,
        warmup_steps=warm_up,
    )
    network.compile(
        optimizer=_optimizer(hyperparameters.model, schedule),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=jit_compile or keras.backend.backend() == "jax",
    )


def _optimizer(model: str, schedule: keras.optimizers.schedules.LearningRateSchedule) -> keras.optimizers.Optimizer:
    """Adam, which is far sooner; for `best`, Nesterov's momentum with decay of the weights, which gets further."""
    if model == "best":
        return keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return keras.optimizers.Adam(schedule)


GRADIENT_NORM = "gradient_norm"


def compute_gradients(
    network: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """The loss of a batch, float32 []; the network's answers to it; and the gradient of each trainable variable.

    Within a `tf.distribute` strategy the loss is divided by the number of replicas, so that their sum is the batch's.
    """
    with tf.GradientTape() as tape:
        answers = network(images, training=True)
        loss = network.compute_loss(images, labels, answers, training=True)
    return loss, answers, tape.gradient(loss, [variable.value for variable in network.trainable_variables])


def watch_gradients(network: keras.Model) -> None:
    """Makes `fit` report the norm of each step's gradient, all variables together, as the log `gradient_norm`."""

    def train_step(batch: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        images, labels = batch
        loss, answers, steepest = compute_gradients(network, images, labels)
        network.optimizer.apply(steepest, network.trainable_variables)
        for metric in network.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(labels, answers)
        return {**network.get_metrics_result(), GRADIENT_NORM: tf.linalg.global_norm(steepest)}

    network.train_step = train_step
