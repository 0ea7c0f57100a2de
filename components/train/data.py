# SPDX-License-Identifier: Apache-2.0
"""From TFRecords to batches: each image is read and transformed once, then kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from components import datasets, features
from components.errors import BadInput
from components.train.kept import Kept, keep

_EXAMPLES_PER_READ = 1024
_AT_A_TIME, _AHEAD = 2, 4  # blocks or batches
# No Python branches on a tensor here, so that TensorFlow need not look for it, which takes longer than the graph.
_as_it_is = tf.autograph.experimental.do_not_convert
_SPEC = {
    features.IMAGE: tf.io.FixedLenFeature([], tf.string),
    features.LABEL: tf.io.FixedLenFeature([], tf.int64),
}


def load(patterns: Sequence[str], transform: Callable[[tf.Tensor], tf.Tensor], split: str) -> Kept:
    """Reads the examples of a split and keeps them, in the order of the files' names.

    Args:
        patterns: as of `files_of`, of uncompressed TFRecord files of tf.Examples with `image` and `label`.
        transform: string [n] of image bytes -> float32 [n, height, width, 1] in [0, 1].
        split: name of the split, for the error.

    Raises:
        BadInput: if there is no example.
        ProjectError: if the images fit neither into memory nor onto the disk.
    """
    files = files_of(patterns)

    @_as_it_is
    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_example(serialized, _SPEC)
        return transform(example[features.IMAGE]), example[features.LABEL]

    records = datasets.records(files)
    dataset = records.batch(_EXAMPLES_PER_READ).map(parse, num_parallel_calls=_AT_A_TIME)
    blocks: Iterator[tuple[np.ndarray, np.ndarray]] = dataset.prefetch(_AHEAD).as_numpy_iterator()
    first = next(blocks, None)
    if first is None:
        raise BadInput(
            f"the split {split!r} must hold at least one example, but {len(files)} files of {', '.join(patterns)} hold "
            "none; give the pipeline more images"
        )
    return keep(itertools.chain([first], blocks), lambda: datasets.count(records))


def files_of(patterns: Sequence[str]) -> list[str]:
    """Lists the files that TFX's Trainer means, which names them FOLDER/*: all of a folder, by their names.

    The folder's name is no pattern, whatever characters are in it.
    """
    return sorted(file for pattern in patterns for file in datasets.files(pattern.removesuffix("/*")))


def steps_per_pass(images: int, batch_size: int) -> int:
    """How many batches of `batches` show every image at least once."""
    return -(-images // batch_size)


def batches(
    kept: Kept, batch_size: int, seed: int, first_pass: int = 0, replicas: int = 1, mine: slice = slice(None)
) -> tf.data.Dataset:
    """Endless batches for training, all of one size; each pass over the images has an order of its own.

    The order depends on the seed and the number of the pass alone, so a training that goes on after a stop sees what it
    would have seen. The last batch of a pass is filled up with images from the pass's start. Whole batches are gathered
    by index: it costs less than shuffling and batching single images, and shuffles all of them.

    Where several replicas take a step together, each has an equal part of its batch, and one element after the other.

    Args:
        kept: n images and labels.
        batch_size: images per batch, a multiple of `replicas`; may be more than n.
        seed: 0 .. 2^31 - 1.
        first_pass: number of the pass to begin with.
        replicas: into how many parts a batch is split.
        mine: which of the parts are wanted.

    Returns:
        Dataset of (float32 [batch_size / replicas, height, width, 1], int64 [batch_size / replicas]).
    """
    count, steps, share = len(kept), steps_per_pass(len(kept), batch_size), batch_size // replicas

    @_as_it_is
    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), [seed, number])
        filled = tf.gather(order, tf.range(steps * batch_size) % count)
        parts = tf.reshape(filled, [steps, replicas, share])[:, mine]
        return tf.data.Dataset.from_tensor_slices(tf.reshape(parts, [-1, share]))

    dataset = datasets.untuned(tf.data.Dataset.counter(first_pass)).flat_map(one_pass)
    return dataset.map(_as_it_is(kept.gather), num_parallel_calls=_AT_A_TIME).prefetch(_AHEAD)


def in_order(kept: Kept, batch_size: int) -> tf.data.Dataset:
    """All images once, in their order, without labels; the last batch may be smaller.

    Returns:
        Dataset of float32 [up to batch_size, height, width, 1].
    """
    rows = datasets.untuned(tf.data.Dataset.range(len(kept))).batch(batch_size)
    return rows.map(_as_it_is(lambda index: kept.gather(index)[0])).prefetch(_AHEAD)


def on_device(dataset: tf.data.Dataset, device: str) -> tf.data.Dataset:
    """The same, its next batches copied to the device while it computes; must be the last that is done to it."""
    copied: tf.data.Dataset = dataset.apply(tf.data.experimental.prefetch_to_device(device, _AT_A_TIME))
    return copied
