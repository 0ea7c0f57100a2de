# SPDX-License-Identifier: Apache-2.0
"""One step of training: what `fit` does in one, with the size of the gradient beside the loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

GRADIENT_NORM = "gradient_norm"


def gradients(
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
        loss, answers, steepest = gradients(network, images, labels)
        network.optimizer.apply(steepest, network.trainable_variables)
        for metric in network.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(labels, answers)
        return {**network.get_metrics_result(), GRADIENT_NORM: tf.linalg.global_norm(steepest)}

    network.train_step = train_step
