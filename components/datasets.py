# SPDX-License-Identifier: Apache-2.0
"""tf.data without its autotuning: readers set their own prefetching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def files(folder: str) -> list[str]:
    """Returns the paths of all files in a folder, sorted: a list and no pattern, as a folder's name may be `b?`."""
    return [tf.io.gfile.join(folder, name) for name in sorted(tf.io.gfile.listdir(folder))]


def records(files: Sequence[str], compression: str = "") -> tf.data.Dataset:
    """Returns the records of TFRecord files, one file after the other: strings."""
    return untuned(tf.data.TFRecordDataset(list(files), compression))


def count(dataset: tf.data.Dataset) -> int:
    """Returns the number of elements, for which all are read."""
    return int(dataset.reduce(np.int64(0), lambda sum_, _: sum_ + 1))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the data set without its autotuning thread, which can block Python when an iterator is deleted.

    Deletion waits for that thread. By a race between `Model::OptimizeLoop` and `CancellationManager` (TensorFlow 2.21)
    the thread may miss the cancellation and sleep on, for the iterator's lifetime and up to a minute: so did 12 of 200
    iterators, and an evaluation waited 27 s for the iterator of the training before it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    result: tf.data.Dataset = dataset.with_options(options)
    return result
