# SPDX-License-Identifier: Apache-2.0
"""Reads the images back from an Examples artifact, for the checks that need every pixel."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from components import features
from components.validate.images import Images, Joined, Sample

_BATCH = 8192


def load(examples: str, split: str) -> Images:
    """Reads one split whole: 784 bytes of memory for an image of 28x28, and its id.

    Args:
        examples: folder of the artifact, with uncompressed TFRecords.
        split: name of the split.
    """
    spec = {
        features.IMAGE: tf.io.FixedLenFeature([], tf.string),
        features.LABEL: tf.io.FixedLenFeature([], tf.int64),
        features.ID: tf.io.FixedLenFeature([], tf.string),
    }
    ids: list[str] = []
    pixels = np.zeros((0, *features.IMAGE_SHAPE), np.uint8)
    labels = [np.zeros(0, np.int64)]
    files = sorted(tf.io.gfile.glob(f"{examples}/Split-{split}/*"))
    for serialized in tf.data.TFRecordDataset(files).batch(_BATCH):
        parsed = tf.io.parse_example(serialized, spec)
        ids += [name.decode() for name in parsed[features.ID].numpy()]
        flat = tf.io.decode_raw(parsed[features.IMAGE], tf.uint8)
        # Grown in place: joining the batches in the end would take all of them twice.
        count = len(pixels)
        pixels.resize((count + len(flat), *features.IMAGE_SHAPE), refcheck=False)
        pixels[count:] = tf.reshape(flat, [-1, *features.IMAGE_SHAPE]).numpy()
        labels.append(parsed[features.LABEL].numpy())
    return Images(ids, pixels, np.concatenate(labels))


def in_file_order(first: Images, second: Images) -> Sample:
    """Two splits of one file as one, in the order of that file; the images stay where they are."""
    ids = [*first.ids, *second.ids]
    order = np.argsort([int(name.rpartition("#")[2]) for name in ids], kind="stable")
    return Sample(
        [ids[row] for row in order],
        Joined([first.pixels, second.pixels], order),
        np.concatenate([first.labels, second.labels])[order],
    )
