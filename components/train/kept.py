# SPDX-License-Identifier: Apache-2.0
"""The images of one split, read once, and their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from components import rows
from components.rows import Rows

# Of the images of one split that stay in memory; more go to the disk. MNIST's training images take 172 MB.
MEMORY_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Images float32 [n, height, width, 1] in [0, 1], in memory or on disk, and their labels int64 [n]."""

    images: Rows
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """In a graph: by number, int64 [k], images float32 [k, height, width, 1] and labels int64 [k]."""
        images, labels = tf.numpy_function(
            lambda index: (self.images[index], self.labels[index]), [numbers], (tf.float32, tf.int64), stateful=False
        )
        shape = tf.TensorShape([*numbers.shape, *self.images.shape[1:]])
        return tf.ensure_shape(images, shape), tf.ensure_shape(labels, numbers.shape)


def keep(blocks: Iterable[tuple[np.ndarray, np.ndarray]], count: Callable[[], int]) -> Kept:
    """Keeps images in memory up to MEMORY_BYTES, else in a file in the folder for temporary files.

    Args:
        blocks: at least one of images float32 [k, height, width, 1] and labels int64 [k].
        count: says how many images are in all of them.

    Raises:
        ProjectError: if the disk has no room for them.
    """
    labels: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        for some, their in blocks:
            labels.append(their)
            yield some

    kept = rows.keep(images(), count, MEMORY_BYTES)
    return Kept(kept, np.concatenate(labels))
