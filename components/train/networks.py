# SPDX-License-Identifier: Apache-2.0
"""The networks. Keras 3 layers only, so that they run on any of its backends.

Each takes images float32 [n, height, width, 1] in [0, 1] and answers probabilities float32 [n, classes]. The counts of
parameters are those for 28x28 images and ten classes.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from components import features
from components.train.augmentation import Distort
from components.train.hyperparameters import Hyperparameters


def build(hyperparameters: Hyperparameters) -> keras.Sequential:
    """The network that the hyperparameters name, not yet compiled, with weights drawn from Keras's global seed."""
    stack = NETWORKS[hyperparameters.model](hyperparameters)
    # The answer is float32 whatever the precision of the layers before it.
    answer = layers.Dense(len(features.CLASSES), activation="softmax", dtype="float32", name="probabilities")
    return keras.Sequential([keras.Input((*features.IMAGE_SHAPE, 1)), *stack, answer], name=hyperparameters.model)


def for_inference(network: keras.Sequential) -> keras.Sequential:
    """The same layers with the same weights, without those that are there for training images alone.

    Whoever loads it needs Keras and no code of this project.
    """
    kept = [layer for layer in network.layers if not isinstance(layer, Distort)]
    if len(kept) == len(network.layers):
        return network
    return keras.Sequential([keras.Input((*features.IMAGE_SHAPE, 1)), *kept], name=network.name)


def linear(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """Softmax regression, 784-10: 7,850 parameters."""
    return [layers.Flatten()]


def dnn(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """784-300-100-30-10: 268,940 parameters."""
    return [layers.Flatten(), *(layers.Dense(units, activation="relu") for units in (300, 100, 30))]


def dnn_dropout(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """`dnn` with dropout after its last hidden layer."""
    return [*dnn(hyperparameters), layers.Dropout(hyperparameters.dropout)]


def cnn(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """Two convolutions with max-pools (7x7x20 = 980 values), dropout, dense 300, dropout, 10: 302,590 parameters."""
    return [
        layers.Conv2D(hyperparameters.nfil1, hyperparameters.ksize1, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(hyperparameters.nfil2, hyperparameters.ksize2, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(hyperparameters.dropout),
        layers.Dense(300, activation="relu"),
        layers.Dropout(hyperparameters.dropout),
    ]


def keras_cnn(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """Two convolutions without padding, max-pool, dropout, dense 128, dropout 0.5, 10: 600,810 parameters.

    `dropout` is the one after the max-pool.
    """
    return [
        layers.Conv2D(hyperparameters.nfil1, hyperparameters.ksize1, activation="relu"),
        layers.Conv2D(hyperparameters.nfil2, hyperparameters.ksize2, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Dropout(hyperparameters.dropout),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dropout(0.5),
    ]


def mlp(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """784-256-128-10: 235,146 parameters."""
    return [layers.Flatten(), *(layers.Dense(units, activation="relu") for units in (256, 128))]


def _convolution(filters: int, kernel: int, pool: bool = False) -> list[layers.Layer]:
    """A convolution without padding, a max-pool where one is asked for, batch norm (which has the bias) and relu.

    The pool comes first, so that the others have a quarter of the work: it saves 23 % of a step of `best`.
    """
    return [
        layers.Conv2D(filters, kernel, use_bias=False),
        *([layers.MaxPooling2D(2)] if pool else []),
        layers.BatchNormalization(momentum=0.9),
        layers.Activation("relu"),
    ]


def fast(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """Three convolutions with two max-pools and batch norm (3x3x64 = 576 values), dropout, 10: 40,986 parameters."""
    return [
        *_convolution(16, 5, pool=True),
        *_convolution(48, 3, pool=True),
        *_convolution(64, 3),
        layers.Flatten(),
        layers.Dropout(hyperparameters.dropout),
    ]


def best(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """Distorted images, four convolutions with two max-pools and batch norm (2x2x128 = 512 values), dropout, 10.

    190,858 parameters.
    """
    return [
        Distort(rotation=12, zoom=0.12, shear=0.2, shift=2, bend=0.6),
        *_convolution(32, 5, pool=True),
        *_convolution(64, 3),
        *_convolution(96, 3, pool=True),
        *_convolution(128, 3),
        layers.Flatten(),
        layers.Dropout(hyperparameters.dropout),
    ]


NETWORKS: dict[str, Callable[[Hyperparameters], list[layers.Layer]]] = {
    network.__name__: network for network in (linear, dnn, dnn_dropout, cnn, keras_cnn, mlp, fast, best)
}
