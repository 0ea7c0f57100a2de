# SPDX-License-Identifier: Apache-2.0
"""The networks. Keras 3 layers only, so that they run on any of its backends.

Each takes images float32 [n, height, width, 1] in [0, 1] and answers probabilities float32 [n, classes]. The counts of
parameters are those for 28x28 images and ten classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from components import features
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


# Points of the bending grid along each side.
_GRID = 7


@keras.saving.register_keras_serializable(package="mnist_tfx")
class Distort(layers.Layer):
    """Turns, scales, slants, moves and bends each image by itself, in training alone; else it passes images on.

    All of that is one map from where a pixel is to where it is read, so an image is read once, bilinearly. Bending
    shifts the points of a coarse grid at random, and smoothly what lies between them, as a writer's hand does
    (P. Simard et al., "Best Practices for Convolutional Neural Networks Applied to Visual Document Analysis", 2003).
    What comes from outside of the image repeats its edge.

    Images are float32 [n, height, width, 1], before and after. The random numbers are those of a generator of this
    layer's own, which is part of the state that a checkpoint keeps.
    """

    def __init__(
        self,
        rotation: float,
        zoom: float,
        shear: float,
        shift: float,
        bend: float,
        seed: int | None = None,
        **options: Any,
    ):
        """Says how far images are distorted.

        Args:
            rotation: most degrees, to either side.
            zoom: most by which height and width, each by itself, grow or shrink; 0.1 is 10 %.
            shear: most by which a row is moved to the side, as a share of its distance from the centre.
            shift: most pixels up, down and to the sides.
            bend: standard deviation of each pixel's own shift, in pixels.
            seed: of the random numbers; from Keras's global seed if None.
            options: of every layer.
        """
        super().__init__(**{"dtype": "float32", **options})
        self.rotation, self.zoom, self.shear, self.shift, self.bend = rotation, zoom, shear, shift, bend
        self.seed = seed
        self._random = keras.random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        own = ("rotation", "zoom", "shear", "shift", "bend", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._height, self._width = (int(side or 0) for side in input_shape[1:3])
        # Pixels from the centre, float32 [height * width] each.
        rows, columns = np.mgrid[: self._height, : self._width].reshape(2, -1).astype(np.float32)
        self._rows, self._columns = rows - (self._height - 1) / 2, columns - (self._width - 1) / 2
        self._bends = _bumps(self._rows, self._height)[:, None] * _bumps(self._columns, self._width)[None]
        self._bends = self._bends.reshape(_GRID * _GRID, -1)
        self._bends /= np.sqrt((self._bends**2).sum(axis=0))
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        return self._distorted(images) if training else images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def _distorted(self, images: Any) -> Any:
        count = ops.shape(images)[0]
        drawn = keras.random.uniform((6, count, 1), -1, 1, dtype="float32", seed=self._random)
        angle = drawn[0] * math.radians(self.rotation)
        cosine, sine, shear = ops.cos(angle), ops.sin(angle), self.shear * drawn[1]
        wide, high = 1 + self.zoom * drawn[2], 1 + self.zoom * drawn[3]
        across, down = self._columns * wide, self._rows * high
        across = across + shear * down
        bends = keras.random.normal((2, count, _GRID * _GRID), stddev=self.bend, dtype="float32", seed=self._random)
        bends = ops.matmul(bends, self._bends)
        column = cosine * across - sine * down + self.shift * drawn[4] + bends[0] + (self._width - 1) / 2
        row = sine * across + cosine * down + self.shift * drawn[5] + bends[1] + (self._height - 1) / 2
        flat = ops.reshape(images, (count, self._height * self._width))
        return ops.reshape(self._read(flat, row, column), (count, self._height, self._width, 1))

    def _read(self, flat: Any, row: Any, column: Any) -> Any:
        """The values at places between the pixels, float32 [n, height * width]."""
        row, column = ops.clip(row, 0, self._height - 1), ops.clip(column, 0, self._width - 1)
        # The last row and column are read as the far ends of those before.
        top = ops.minimum(ops.floor(row), self._height - 2)
        left = ops.minimum(ops.floor(column), self._width - 2)
        down, across = row - top, column - left
        first = ops.cast(top * self._width + left, "int32")

        def values(offset: int) -> Any:
            return ops.take_along_axis(flat, first + offset, axis=1)

        upper = values(0) * (1 - across) + values(1) * across
        lower = values(self._width) * (1 - across) + values(self._width + 1) * across
        return upper * (1 - down) + lower * down


def _bumps(places: np.ndarray, side: int) -> np.ndarray:
    """A bump around each point of the grid: float32 [_GRID, places]."""
    points = np.linspace(-(side - 1) / 2, (side - 1) / 2, _GRID, dtype=np.float32)
    width = (side - 1) / (_GRID - 1)
    return np.exp(-(((places - points[:, None]) / width) ** 2) / 2)
