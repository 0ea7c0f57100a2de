# SPDX-License-Identifier: Apache-2.0
"""The networks, and their loss, optimizer and learning-rate schedule. Keras 3 only, so that any backend runs them.

Each network maps images float32 [n, height, width, 1] in [0, 1] to probabilities float32 [n, classes]. The numbers of
parameters below are for 28x28 images and ten classes.
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

_WARM_UP_STEPS = 100


def build(hyperparameters: Hyperparameters) -> keras.Sequential:
    """Builds the network `hyperparameters.model`, not compiled; Keras's global seed determines its initial weights."""
    hidden = NETWORKS[hyperparameters.model](hyperparameters)
    # float32 even if the hidden layers compute in bfloat16.
    output = layers.Dense(len(features.CLASSES), activation="softmax", dtype="float32", name="probabilities")
    return keras.Sequential([keras.Input((*features.IMAGE_SHAPE, 1)), *hidden, output], name=hyperparameters.model)


def compile_network(network: keras.Model, hyperparameters: Hyperparameters, jit_compile: bool = False) -> None:
    """Compiles a network, in place, with cross-entropy and a cosine schedule after a short linear warm-up.

    On few steps the decay to 0 matters more than any other choice; it does the work of averaging the last weights
    (Loshchilov and Hutter, "SGDR", 2017).

    Args:
        network: as `build` returns it.
        hyperparameters: provides the model, the learning rate and the number of steps.
        jit_compile: compile the steps with XLA. Use it on GPUs; on a CPU it makes these convolutions three times
            slower. JAX is always compiled, because it would otherwise run operation by operation.
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
    """Returns Adam, which converges faster, or for `best` SGD with Nesterov momentum and weight decay, for accuracy."""
    if model == "best":
        return keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return keras.optimizers.Adam(schedule)


def for_inference(network: keras.Sequential) -> keras.Sequential:
    """Returns a network of the same layers and weights, without those that only act on training images.

    It can be loaded with Keras alone, without this project's code.
    """
    inference_layers = [layer for layer in network.layers if not isinstance(layer, Distort)]
    if len(inference_layers) == len(network.layers):
        return network
    return keras.Sequential([keras.Input((*features.IMAGE_SHAPE, 1)), *inference_layers], name=network.name)


def linear(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """Softmax regression, 784-10: 7,850 parameters."""
    return [layers.Flatten()]


def dnn(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """784-300-100-30-10: 268,940 parameters."""
    return [layers.Flatten(), *(layers.Dense(units, activation="relu") for units in (300, 100, 30))]


def dnn_dropout(hyperparameters: Hyperparameters) -> list[layers.Layer]:
    """`dnn` with dropout after the last hidden layer."""
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

    `dropout` applies after the max-pool.
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
    """A convolution without padding, optional max-pool, batch norm (which adds the bias) and relu.

    Pooling first leaves a quarter of the values to batch norm and relu, which saves 23 % of a step of `best`.
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
    """Distorted images, four convolutions, two max-pools, batch norm (2x2x128), dropout, 10: 190,890 parameters."""
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


_GRID = 7  # points of the bending grid along each side


@keras.saving.register_keras_serializable(package="mnist_tfx")
class Distort(layers.Layer):
    """Rotates, scales, shears, shifts and bends each training image at random; other images pass unchanged.

    The five are one coordinate map, so each image is resampled once, bilinearly. Bending shifts the points of a coarse
    grid at random and the pixels between them smoothly, like the variation of a hand (P. Simard et al., "Best Practices
    for Convolutional Neural Networks Applied to Visual Document Analysis", 2003). Pixels from outside of the image
    repeat its edge.

    Images are float32 [n, height, width, 1], before and after. The layer has its own random generator, whose state
    checkpoints include.
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
        """Sets the largest distortions.

        Args:
            rotation: degrees, in either direction.
            zoom: relative change of height and of width, independent of each other; 0.1 is 10 %.
            shear: shift of a row as a share of its distance from the centre.
            shift: pixels, in every direction.
            bend: standard deviation of each pixel's shift, in pixels.
            seed: of the random numbers; None draws one from Keras's global seed.
            options: of `keras.layers.Layer`.
        """
        super().__init__(**{"dtype": "float32", **options})
        self.rotation, self.zoom, self.shear, self.shift, self.bend = rotation, zoom, shear, shift, bend
        self.seed = seed
        self._seed_generator = keras.random.SeedGenerator(seed)

    def get_config(self) -> dict[str, Any]:
        options = ("rotation", "zoom", "shear", "shift", "bend", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in options}}

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._height, self._width = (int(side or 0) for side in input_shape[1:3])
        # Distances from the centre in pixels, float32 [height * width] each.
        rows, columns = np.mgrid[: self._height, : self._width].reshape(2, -1).astype(np.float32)
        self._rows, self._columns = rows - (self._height - 1) / 2, columns - (self._width - 1) / 2
        vertical, horizontal = _bump_basis(self._rows, self._height), _bump_basis(self._columns, self._width)
        basis = (vertical[:, None] * horizontal[None]).reshape(_GRID * _GRID, -1)
        self._bend_basis = basis / np.sqrt((basis**2).sum(axis=0))
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        return self._distort(images) if training else images

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def _distort(self, images: Any) -> Any:
        count = ops.shape(images)[0]
        uniform = keras.random.uniform((6, count, 1), -1, 1, dtype="float32", seed=self._seed_generator)
        angle = uniform[0] * math.radians(self.rotation)
        cosine, sine, shear = ops.cos(angle), ops.sin(angle), self.shear * uniform[1]
        x, y = self._columns * (1 + self.zoom * uniform[2]), self._rows * (1 + self.zoom * uniform[3])
        x = x + shear * y
        bends = keras.random.normal(
            (2, count, _GRID * _GRID), stddev=self.bend, dtype="float32", seed=self._seed_generator
        )
        bends = ops.matmul(bends, self._bend_basis)
        column = cosine * x - sine * y + self.shift * uniform[4] + bends[0] + (self._width - 1) / 2
        row = sine * x + cosine * y + self.shift * uniform[5] + bends[1] + (self._height - 1) / 2
        pixels = ops.reshape(images, (count, self._height * self._width))
        return ops.reshape(self._interpolate(pixels, row, column), (count, self._height, self._width, 1))

    def _interpolate(self, pixels: Any, row: Any, column: Any) -> Any:
        """Returns the values at fractional rows and columns, float32 [n, height * width], bilinearly."""
        row, column = ops.clip(row, 0, self._height - 1), ops.clip(column, 0, self._width - 1)
        # At most the last row but one and column but one, so that there is always a neighbour.
        first_row = ops.minimum(ops.floor(row), self._height - 2)
        first_column = ops.minimum(ops.floor(column), self._width - 2)
        y, x = row - first_row, column - first_column
        index = ops.cast(first_row * self._width + first_column, "int32")

        def values(offset: int) -> Any:
            return ops.take_along_axis(pixels, index + offset, axis=1)

        upper = values(0) * (1 - x) + values(1) * x
        lower = values(self._width) * (1 - x) + values(self._width + 1) * x
        return upper * (1 - y) + lower * y


def _bump_basis(positions: np.ndarray, side: int) -> np.ndarray:
    """Returns a Gaussian bump around each point of the grid along one axis: float32 [_GRID, positions]."""
    points = np.linspace(-(side - 1) / 2, (side - 1) / 2, _GRID, dtype=np.float32)
    width = (side - 1) / (_GRID - 1)
    return np.exp(-(((positions - points[:, None]) / width) ** 2) / 2)
