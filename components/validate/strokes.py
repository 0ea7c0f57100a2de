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
_CHUNK = 512  # images whose gradients are worked on at a time: they stay in the processor's cache

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
    size = _describe(pixels[known[:1]]).shape[1]
    directions = random.normal(0, np.sqrt(2 * _WIDTH), (size, features)).astype(np.float32)
    phases = random.uniform(0, 2 * np.pi, features).astype(np.float32)

    def described(rows: npt.NDArray[np.int64]) -> Floats:
        result = _describe(pixels[known[rows]]) @ directions
        result += phases
        return np.cos(result, out=result)

    return described


def _describe(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Strokes by direction and place: uint8 [n, height, width] -> float32 [n, 8 * cells], each of length 1 or 0."""
    count, height, width = pixels.shape
    cells = _pooling(height, width)
    result = np.empty((count, 8 * cells.shape[1]), np.float32)
    half = np.float32(np.sqrt(0.5))
    for start in range(0, count, _CHUNK):
        padded = np.pad(pixels[start : start + _CHUNK], ((0, 0), (1, 1), (1, 1))).astype(np.float32)
        right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
        down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
        slopes = (right, half * (right + down), down, half * (down - right))
        parts = []
        for slope in slopes:
            rise = np.maximum(slope, 0).reshape(len(padded), -1) @ cells
            # What falls in this direction is the rise in the opposite one.
            fall = rise - slope.reshape(len(padded), -1) @ cells
            parts += [rise, np.maximum(fall, 0)]
        # The root keeps one strong edge from outweighing the rest.
        part = np.sqrt(np.concatenate(parts, axis=1))
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-6))
        result[start : start + _CHUNK] = part
    return result


def _pooling(height: int, width: int) -> Floats:
    """Sums the pixels of each cell of the grid, as a matrix: float32 [height * width, rows * columns of cells]."""
    rows, columns = min(_GRID, height), min(_GRID, width)
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    cell = (row[:, None] * columns + column[None, :]).ravel()
    return np.eye(rows * columns, dtype=np.float32)[cell]
