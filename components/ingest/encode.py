# SPDX-License-Identifier: Apache-2.0
"""Serializes blocks of images as tf.Examples with the features of `components/features.py`, and draws splits."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components import features

if TYPE_CHECKING:
    from tensorflow.core.example import feature_pb2

_INK = 128  # a pixel of this brightness or more is ink


def examples(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], file: str, indices: npt.NDArray[np.int64]
) -> list[bytes]:
    """Serializes a block of images as tf.Examples; the same images always give the same bytes.

    Args:
        images: uint8 [n, height, width].
        labels: uint8 [n].
        file: base name of the IDX file that the images come from.
        indices: int64 [n]; the position of each image in that file, from 0.

    Returns:
        n serialized examples, in the order of the images.
    """
    from tensorflow.core.example import example_pb2  # the command line, which draws splits, starts without TensorFlow

    count, height, width = images.shape
    if not count:
        return []
    columns: dict[str, list[bytes] | list[int] | list[float]] = {
        features.IMAGE: [image.tobytes() for image in images],
        features.LABEL: labels.tolist(),
        features.ID: [f"{file}#{index}".encode() for index in indices.tolist()],
        features.HEIGHT: [height] * count,
        features.WIDTH: [width] * count,
        **{name: column.tolist() for name, column in scalars(images).items()},
    }
    # One message for all rows: only its values are replaced, which takes a third of the time of a new message each.
    example = example_pb2.Example()
    values = [_values(example.features.feature[name], column[0]) for name, column in columns.items()]
    serialized = []
    for row in zip(*columns.values(), strict=True):
        for value, cell in zip(values, row, strict=True):
            value[:] = [cell]
        serialized.append(example.SerializeToString(deterministic=True))  # sorts the features, which are a map
    return serialized


def _values(feature: feature_pb2.Feature, cell: bytes | int | float) -> MutableSequence[Any]:
    """Returns the values of a feature, in the list for the type of a cell."""
    if isinstance(cell, bytes):
        return feature.bytes_list.value
    return feature.int64_list.value if isinstance(cell, int) else feature.float_list.value


def scalars(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """Computes the scalar features that make pixels visible to TFDV.

    Args:
        images: uint8 [n, height, width].

    Returns:
        float32 [n] for each of mean intensity, ink share, contrast and slant; units and ranges in `features`.
    """
    count, height, width = images.shape
    flat = images.reshape(count, height * width)
    # Sums of brightness * (1, x, y, x y, y y), exact in float64, so the same on every machine.
    y, x = (axis.ravel().astype(np.float64) for axis in np.indices((height, width)))
    sums = flat.astype(np.float64) @ np.stack([np.ones_like(x), x, y, x * y, y * y], axis=1)
    total, of_x, of_y, of_xy, of_yy = sums.T
    # Central moments times the total: the covariance of x and y, and the variance of y.
    covariance, variance = of_xy * total - of_x * of_y, of_yy * total - of_y * of_y
    # y points down, so ink that leans to the right has a negative covariance. Without height there is no lean.
    slope = np.divide(-covariance, variance, out=np.zeros(count), where=variance > 0)
    columns = {
        features.MEAN_INTENSITY: total / (255.0 * height * width),
        features.INK_SHARE: np.count_nonzero(flat >= _INK, axis=1) / (height * width),
        features.CONTRAST: (flat.max(axis=1).astype(np.float64) - flat.min(axis=1)) / 255.0,
        features.SLANT: np.arctan(slope),
    }
    return {name: column.astype(np.float32) for name, column in columns.items()}


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijective hash of 64-bit integers (G. Steele et al., Fast Splittable Pseudorandom Number Generators, 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def lowest_ranks(count: int, size: int) -> npt.NDArray[np.int64]:
    """Draws `size` of the indices 0 .. count - 1: those with the lowest hashes, in ascending order.

    By rank and not by a modulus of the index: many data sets are written class by class in turn.
    """
    order = np.argsort(splitmix64(np.arange(count, dtype=np.uint64)), kind="stable")
    return np.sort(order[:size])
