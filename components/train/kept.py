# SPDX-License-Identifier: Apache-2.0
"""Images that are read once and then taken again and again: from memory, or from a file where they are too many."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import IO

import numpy as np
import tensorflow as tf

from components.errors import ProjectError

# Of one split. MNIST's training images take 172 MB.
MEMORY_BYTES = 256 * 2**20
# What is left free for the model, logs and checkpoints.
_ROOM_BYTES = 200 * 10**6


class Kept:
    """Images float32 [n, height, width, 1] in [0, 1] and their labels int64 [n]; all images are here in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.labels = labels
        self._images = images
        self._shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """The images at these places, int64 [k], as float32 [k, height, width, 1]."""
        taken: np.ndarray = self._images[rows]
        return taken

    def gather(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The same in a graph, and the labels int64 [k] beside them."""
        images, labels = tf.numpy_function(
            lambda index: (self.images(index), self.labels[index]), [rows], (tf.float32, tf.int64), stateful=False
        )
        return tf.ensure_shape(images, [*rows.shape, *self._shape]), tf.ensure_shape(labels, rows.shape)


class KeptOnDisk(Kept):
    """The same, the images in a file that nobody else sees and that goes with the process, however that ends.

    Read with `pread`: a map of the file would count as memory of the process.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], labels: np.ndarray):
        self.labels = labels
        self._file, self._shape = file, shape

    def __del__(self) -> None:
        self._file.close()

    def images(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self._shape), np.float32)
        for image, row in zip(images, rows.tolist(), strict=True):
            if os.preadv(self._file.fileno(), [image], row * image.nbytes) != image.nbytes:
                raise OSError(f"the file of the kept images ends before image {row}")
        return images


def keep(blocks: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> Kept:
    """Keeps images in memory up to MEMORY_BYTES, else in a file in the folder for temporary files.

    Args:
        blocks: at least one of images float32 [k, height, width, 1] and labels int64 [k].
        count: images in all of them.

    Raises:
        ProjectError: if the disk has no room for them.
    """
    labels = np.empty(count, np.int64)
    store: np.ndarray | IO[bytes] | None = None
    done = 0
    for images, some in blocks:
        if store is None:
            shape = images.shape[1:]
            store = _store(count, shape)
        if isinstance(store, np.ndarray):
            store[done : done + len(some)] = images
        else:
            store.write(np.ascontiguousarray(images).data)
        labels[done : done + len(some)] = some
        done += len(some)
    if isinstance(store, np.ndarray):
        return Kept(store, labels)
    if store is None:
        raise ValueError("there must be at least one block")
    store.flush()
    return KeptOnDisk(store, shape, labels)


def _store(count: int, shape: tuple[int, ...]) -> np.ndarray | IO[bytes]:
    size = 4 * count * int(np.prod(shape))
    if size <= MEMORY_BYTES:
        return np.empty((count, *shape), np.float32)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size + _ROOM_BYTES:
        raise ProjectError(
            f"{count:,} images need {(size + _ROOM_BYTES) / 1e9:.1f} GB of disk while they are trained on, but "
            f"{folder} has {free / 1e9:.1f} GB free; free some, or have that folder on a larger disk (--output of "
            "runner_local.py, elsewhere TMPDIR)"
        )
    return tempfile.TemporaryFile(dir=folder)
