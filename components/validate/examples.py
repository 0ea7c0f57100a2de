# SPDX-License-Identifier: Apache-2.0
"""Reads the images back from an Examples artifact, for the checks that need every pixel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from components import datasets, features, rows
from components.validate.images import Images, Joined, Pixels

# Of the pixels of one split that stay in memory; more go to the disk. MNIST's training images take 43 MB.
_MEMORY_BYTES = 64 * 2**20
_BATCH = 8192


def load(examples: str, split: str) -> Images:
    """Reads one split whole: into memory, or its pixels into a file where they are over 64 MiB.

    Args:
        examples: folder of the artifact, with uncompressed TFRecords.
        split: name of the split.

    Raises:
        ProjectError: if the images fit neither into memory nor onto the disk.
    """
    spec = {
        features.IMAGE: tf.io.FixedLenFeature([], tf.string),
        features.LABEL: tf.io.FixedLenFeature([], tf.int64),
        features.ID: tf.io.FixedLenFeature([], tf.string),
    }
    ids: list[str] = []
    labels = [np.zeros(0, np.int64)]
    records = datasets.records(datasets.files(f"{examples}/Split-{split}"))

    def pixels() -> Iterator[Pixels]:
        yield np.zeros((0, *features.IMAGE_SHAPE), np.uint8)
        for serialized in records.batch(_BATCH):
            parsed = tf.io.parse_example(serialized, spec)
            ids.extend(name.decode() for name in parsed[features.ID].numpy())
            labels.append(parsed[features.LABEL].numpy())
            flat = tf.io.decode_raw(parsed[features.IMAGE], tf.uint8)
            yield tf.reshape(flat, [-1, *features.IMAGE_SHAPE]).numpy()

    kept = rows.keep(pixels(), lambda: datasets.count(records), _MEMORY_BYTES)
    return Images(ids, kept, np.concatenate(labels))


def in_file_order(first: Images, second: Images) -> Images:
    """Two splits of one file as one, in the order of that file; the images stay where they are."""
    ids = [*first.ids, *second.ids]
    order = np.argsort([int(name.rpartition("#")[2]) for name in ids], kind="stable")
    return Images(
        [ids[row] for row in order],
        Joined([first.pixels, second.pixels], order),
        np.concatenate([first.labels, second.labels])[order],
    )
