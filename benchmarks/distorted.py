# SPDX-License-Identifier: Apache-2.0
"""A larger data set of the same kind: elastic distortions of a data set's images, with their labels.

After P. Simard, D. Steinkraus and J. Platt, Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis, ICDAR 2003: each pixel is displaced by a random field, smoothed by a Gaussian and scaled. The same data set
and factor give the same bytes.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import multiprocessing
import os
import pathlib
import tempfile

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from components import features
from components.ingest import idx

Pixels = npt.NDArray[np.uint8]

_SIGMA, _ALPHA = 4.0, 34.0  # smoothness and strength, in pixels, of the paper's best fields for images of 29x29
_CHUNK = 5000  # images of one piece of work


def write(data_dir: pathlib.Path, factor: int, cache: pathlib.Path) -> pathlib.Path:
    """Writes a data set with `factor` times the images: the images themselves, then `factor` - 1 distortions of all.

    Args:
        data_dir: folder with the four IDX files.
        factor: 1 or more.
        cache: folder in which the result gets a folder; one that is there is taken as it is.

    Returns:
        The folder with the four files.
    """
    pairs = [
        idx.read_pair(data_dir, *names, features.IMAGE_SHAPE)
        for names in ((idx.TRAIN_IMAGES, idx.TRAIN_LABELS), (idx.TEST_IMAGES, idx.TEST_LABELS))
    ]
    # What is in the cache depends on the data and on this file.
    told = "".join(one.sha256 for pair in pairs for one in pair) + pathlib.Path(__file__).read_text(encoding="utf-8")
    folder = cache / f"{factor}x-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    names = iter(idx.FILES)
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as partial,
        concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool,
    ):
        whole = pathlib.Path(partial, "whole")
        whole.mkdir()
        for number, (images, labels) in enumerate(pairs):
            work = [
                (images.array[start : start + _CHUNK], (number, copy, start))
                for copy in range(1, factor)
                for start in range(0, len(images.array), _CHUNK)
            ]
            parts = [images.array, *pool.map(distort, *zip(*work, strict=True))] if work else [images.array]
            idx.write(whole / next(names), np.concatenate(parts))
            idx.write(whole / next(names), np.tile(labels.array, factor))
        whole.rename(folder)
    return folder


def distort(images: Pixels, seed: tuple[int, ...]) -> Pixels:
    """Distorts each image by a field of its own.

    Args:
        images: uint8 [n, height, width].
        seed: the same seed gives the same fields.

    Returns:
        uint8 [n, height, width]; 0 comes in from outside.
    """
    count, height, width = images.shape
    random = np.random.default_rng(seed)
    fields = random.uniform(-1, 1, (2, count, height, width)).astype(np.float32)
    smooth = functools.partial(ndimage.gaussian_filter1d, sigma=_SIGMA, mode="constant")
    fields = _ALPHA * smooth(smooth(fields, axis=2), axis=3)
    y = fields[0] + np.arange(height, dtype=np.float32)[:, None]
    x = fields[1] + np.arange(width, dtype=np.float32)
    # Bilinear interpolation; a frame of zeros stands for all that is outside.
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = y - top, x - left
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    which = np.arange(count)[:, None, None]

    def at(row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return framed[which, np.clip(row + 1, 0, height + 1), np.clip(column + 1, 0, width + 1)]

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    result: Pixels = np.rint(upper * (1 - down) + lower * down).astype(np.uint8)
    return result
