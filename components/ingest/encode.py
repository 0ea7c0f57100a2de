# SPDX-License-Identifier: Apache-2.0
"""Turns blocks of images into serialized tf.Examples, with the features of `components/features.py`.

The messages are put together here byte by byte, and not by a library: libraries write the features of an Example, which
are a map, in an order that changes from process to process, or sort them at ten times the cost. Here the same images
give the same bytes, those of `SerializeToString(deterministic=True)`. The format is
https://protobuf.dev/programming-guides/encoding; the messages are in tensorflow/core/example/.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from components import features

_INK = 128  # a pixel of this brightness or more is ink
# Tags of the length-delimited fields of a tf.Feature: the list that holds its value.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = b"\x0a", b"\x12", b"\x1a"


def examples(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], file: str, indices: npt.NDArray[np.int64]
) -> list[bytes]:
    """Encodes a block of images as serialized tf.Examples, in the order given.

    Args:
        images: uint8 [n, height, width].
        labels: uint8 [n].
        file: base name of the IDX file that the images come from.
        indices: int64 [n]; the position of each image in that file, from 0.
    """
    count, height, width = images.shape
    columns = {
        features.IMAGE: _column(features.IMAGE, _BYTES_LIST, _chunks(images.tobytes(), height * width)),
        features.LABEL: _column(features.LABEL, _INT64_LIST, map(_varint, labels.tolist())),
        features.ID: _column(features.ID, _BYTES_LIST, (f"{file}#{index}".encode() for index in indices.tolist())),
        features.HEIGHT: _column(features.HEIGHT, _INT64_LIST, [_varint(height)]) * count,
        features.WIDTH: _column(features.WIDTH, _INT64_LIST, [_varint(width)]) * count,
    }
    for name, column in scalars(images).items():
        columns[name] = _column(name, _FLOAT_LIST, _chunks(column.astype("<f4").tobytes(), 4))
    rows = (b"".join(entries) for entries in zip(*(columns[name] for name in sorted(columns)), strict=True))
    return [b"\x0a" + _varint(len(row)) + row for row in rows]


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
    # Central moments times the total: how x goes with y, and the spread of y.
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


def _column(name: str, kind: bytes, values: Iterable[bytes]) -> list[bytes]:
    """The entries of one feature in the maps of the examples, from its encoded values."""
    return [_prefix(name, kind, len(value)) + value for value in values]


def _chunks(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@functools.lru_cache(maxsize=1024)
def _prefix(name: str, kind: bytes, size: int) -> bytes:
    """What stands before a value of so many bytes in the entry of a feature. Packed numbers and bytes look alike."""
    key = name.encode()
    in_list = b"\x0a" + _varint(size)
    in_feature = kind + _varint(len(in_list) + size) + in_list
    in_entry = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(in_feature) + size) + in_feature
    return b"\x0a" + _varint(len(in_entry) + size) + in_entry


@functools.lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    """A non-negative integer, seven bits to a byte, the low ones first."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijective hash of 64-bit integers (G. Steele et al., Fast Splittable Pseudorandom Number Generators, 2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def lowest_ranks(count: int, chosen: int) -> npt.NDArray[np.int64]:
    """Chooses exactly `chosen` of the indices 0 .. count - 1: those with the lowest hashes, in ascending order.

    By rank and not by a modulus of the index: many data sets are written class by class in turn.
    """
    order = np.argsort(splitmix64(np.arange(count, dtype=np.uint64)), kind="stable")
    return np.sort(order[:chosen])
