# SPDX-License-Identifier: Apache-2.0
"""From TFRecords to batches: each image is read and transformed once, then stays in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from components import features
from components.errors import BadInput

_EXAMPLES_PER_READ = 1024
_SPEC = {
    features.IMAGE: tf.io.FixedLenFeature([], tf.string),
    features.LABEL: tf.io.FixedLenFeature([], tf.int64),
}


def load(
    patterns: Sequence[str], transform: Callable[[tf.Tensor], tf.Tensor], split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the examples of a split into memory, in the order of the files' names.

    Args:
        patterns: of uncompressed TFRecord files of tf.Examples with `image` and `label`.
        transform: string [n] of image bytes -> float32 [n, height, width, 1] in [0, 1].
        split: name of the split, for the error.

    Returns:
        Images float32 [n, height, width, 1] in [0, 1], labels int64 [n].

    Raises:
        BadInput: if there is no example.
    """
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_example(serialized, _SPEC)
        return transform(example[features.IMAGE]), example[features.LABEL]

    dataset = tf.data.TFRecordDataset(files).batch(_EXAMPLES_PER_READ)
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    parts = list(dataset.as_numpy_iterator()) if files else []
    if not parts:
        raise BadInput(
            f"the split {split!r} must hold at least one example, but {len(files)} files of {', '.join(patterns)} hold "
            "none; give the pipeline more images"
        )
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def steps_per_pass(images: int, batch_size: int) -> int:
    """How many batches of `batches` show every image at least once."""
    return -(-images // batch_size)


def batches(images: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, first_pass: int = 0) -> tf.data.Dataset:
    """Endless batches for training, all of one size; each pass over the images has an order of its own.

    The order depends on the seed and the number of the pass alone, so a training that goes on after a stop sees what it
    would have seen. The last batch of a pass is filled up with images from the pass's start. Whole batches are gathered
    by index: it costs less than shuffling and batching single images, and shuffles all of them.

    Args:
        images: float32 [n, height, width, 1].
        labels: int64 [n].
        batch_size: images per batch; may be more than n.
        seed: 0 .. 2^31 - 1.
        first_pass: number of the pass to begin with.

    Returns:
        Dataset of (float32 [batch_size, height, width, 1], int64 [batch_size]).
    """
    count, steps = len(images), steps_per_pass(len(images), batch_size)
    with tf.device("CPU"):  # where the dataset gathers; the whole set need not fit into a GPU
        all_images, all_labels = tf.constant(images), tf.constant(labels)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), [seed, number])
        filled = tf.gather(order, tf.range(steps * batch_size) % count)
        return tf.data.Dataset.from_tensor_slices(tf.reshape(filled, [steps, batch_size]))

    def gather(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(all_images, index), tf.gather(all_labels, index)

    dataset = tf.data.Dataset.counter(first_pass).flat_map(one_pass)
    return dataset.map(gather, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
