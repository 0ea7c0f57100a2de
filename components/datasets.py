# SPDX-License-Identifier: Apache-2.0
"""tf.data without its autotuning: what is read ahead is set where it is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def files(folder: str) -> list[str]:
    """The paths of all that lies in a folder, by name: a list and no pattern, as a folder may be called `b?`."""
    return [tf.io.gfile.join(folder, name) for name in sorted(tf.io.gfile.listdir(folder))]


def records(files: Sequence[str], compression: str = "") -> tf.data.Dataset:
    """The records of TFRecord files, one file after the other: strings."""
    return untuned(tf.data.TFRecordDataset(list(files), compression))


def count(dataset: tf.data.Dataset) -> int:
    """How many elements there are, for which all are read."""
    return int(dataset.reduce(np.int64(0), lambda sum_, _: sum_ + 1))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same, and no thread measures it: dropping an iterator waits for that thread and holds all of Python up.

    As a rule for no time. But the thread wakes up while the dropping is not marked yet (`Model::OptimizeLoop` and
    `CancellationManager` of TensorFlow 2.21), and where it is the faster of the two it sleeps on, as long as the
    iterator has lived and at most a minute: 12 of 200 iterators did so, and a whole evaluation waited 27 s for that of
    the training before it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    chosen: tf.data.Dataset = dataset.with_options(options)
    return chosen
