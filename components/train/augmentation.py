# SPDX-License-Identifier: Apache-2.0
"""Distorted images to train on, drawn anew for each step. Keras alone, for any of its backends."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

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
