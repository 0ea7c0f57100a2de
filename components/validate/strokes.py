# SPDX-License-Identifier: Apache-2.0
"""Describes images by the directions of their strokes on a coarse grid, as features of a linear model.

In the manner of histograms of oriented gradients (N. Dalal and B. Triggs, CVPR 2005), and by random cosine features of
these (A. Rahimi and B. Recht, NIPS 2007).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from components.rows import Rows

_GRID = 7  # rows and columns of cells: 4x4 pixels each in an image of 28x28
_WIDTH = 0.25  # of the kernel exp(-WIDTH |a - b|^2) that the cosine features stand for; the descriptions have length 1
_CHUNK = 256  # images whose gradients are worked on at a time: they stay in the processor's cache

Floats = npt.NDArray[np.float32]


def describer(
    pixels: Rows, known: npt.NDArray[np.int64], features: int, random: np.random.Generator
) -> Callable[[npt.NDArray[np.int64]], Floats]:
    """A function from the numbers of some of the known images to their features, float32 [n, features].

    They are random cosine features of a Gaussian kernel.

    Args:
        pixels: all images.
        known: which of them are numbered 0, 1, …; at least one.
        features: how many there shall be.
        random: draws them.
    """
    import tensorflow as tf  # not for all who import this module: the command line reads the names of findings

    size = len(_describe(pixels[known[:1]]))
    directions = tf.constant(random.normal(0, np.sqrt(2 * _WIDTH), (size, features)), tf.float32)
    phases = random.uniform(0, 2 * np.pi, features).astype(np.float32)

    def described(rows: npt.NDArray[np.int64]) -> Floats:
        # In half of NumPy's time where OpenBLAS does not know the processor, which it then takes for an older one.
        result = tf.matmul(_describe(pixels[known[rows]]), directions, transpose_a=True).numpy()
        result += phases
        return np.cos(result, out=result)

    return described


def _describe(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Strokes by direction and place: uint8 [n, height, width] -> float32 [8 * cells, n], each of length 1 or 0."""
    count, height, width = pixels.shape
    of_row, of_column = _cells(height), _cells(width)
    result = np.empty((4, 2, of_row[-1] + 1, of_column[-1] + 1, count), np.float32)
    for start in range(0, count, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        # The images come last: what is done to one pixel is done to that of all images, which are neighbours then.
        # In whole numbers no sum is rounded.
        padded = np.pad(pixels[chunk].transpose(1, 2, 0), ((1, 1), (1, 1), (0, 0))).astype(np.int32)
        # Slopes to the right and down, and the sizes of the slopes in all four directions.
        slopes = np.empty((6, width, padded.shape[2]), np.int32)
        right, down = slopes[:2]
        by_row = np.zeros((6, of_row[-1] + 1, *slopes.shape[1:]), np.int32)
        for row, cell in enumerate(of_row):
            np.subtract(padded[row + 1, 2:], padded[row + 1, :-2], out=right)
            np.subtract(padded[row + 2, 1:-1], padded[row, 1:-1], out=down)
            slopes[2], slopes[4] = right, down
            np.add(right, down, out=slopes[3])
            np.subtract(down, right, out=slopes[5])
            np.abs(slopes[2:], out=slopes[2:])
            by_row[:, cell] += slopes
        sums = np.zeros((*by_row.shape[:2], of_column[-1] + 1, padded.shape[2]), np.int32)
        for column, cell in enumerate(of_column):
            sums[:, :, cell] += by_row[:, :, column]
        right, down, *sizes = sums
        # The size is rise and fall together, the slope is rise less fall: these are twice the rise and the fall.
        for part, slope, size in zip(result, (right, right + down, down, down - right), sizes, strict=True):
            np.add(size, slope, out=part[0, ..., chunk])
            np.subtract(size, slope, out=part[1, ..., chunk])
    result[1::2] *= np.float32(np.sqrt(0.5))  # the slopes across the pixels
    flat = result.reshape(-1, count)
    # The root keeps one strong edge from outweighing the rest.
    flat /= np.maximum(flat.sum(axis=0), 1)
    return np.sqrt(flat, out=flat)


def _cells(size: int) -> npt.NDArray[np.int64]:
    """Which row or column of the grid each row or column of pixels is in."""
    return np.arange(size) * min(_GRID, size) // size
