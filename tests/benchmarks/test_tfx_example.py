# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf
import tfx

from benchmarks import plain_keras, tfx_example
from components.ingest import digits

EXAMPLE = pathlib.Path(tfx.__file__).parent / "examples/mnist"


def test_the_example_gets_every_image_as_it_reads_them(tmp_path):
    digits.write(tmp_path / "digits")
    tfx_example.write_records(tmp_path / "digits", tmp_path / "data/mnist.tfrecord")
    spec = {
        "image_floats": tf.io.FixedLenFeature([784], tf.float32),
        "image_class": tf.io.FixedLenFeature([], tf.int64),
    }
    records = list(tf.data.TFRecordDataset(str(tmp_path / "data/mnist.tfrecord")).as_numpy_iterator())
    examples = tf.io.parse_example(records, spec)
    images, labels = (
        np.concatenate(part)
        for part in zip(*(plain_keras.read_pair(tmp_path / "digits", name) for name in ("train", "t10k")), strict=True)
    )
    assert len(records) == 1797
    np.testing.assert_allclose(examples["image_floats"], images.reshape(-1, 784) - 0.5, atol=1e-6)
    np.testing.assert_array_equal(examples["image_class"], labels)


def test_the_installed_example_is_accepted():
    assert tfx_example.check_folder(EXAMPLE) == EXAMPLE.resolve()
