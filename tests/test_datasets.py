# SPDX-License-Identifier: Apache-2.0
import gzip

import tensorflow as tf

from components import datasets


def test_records_come_in_the_order_of_the_files(tmp_path):
    for name, records in {"b": [b"1", b"2"], "a": [b"3"]}.items():
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for record in records:
                writer.write(record)
    read = datasets.records([str(tmp_path / "b"), str(tmp_path / "a")])
    assert list(read.as_numpy_iterator()) == [b"1", b"2", b"3"]
    assert list(datasets.records([])) == []

    (tmp_path / "b.gz").write_bytes(gzip.compress((tmp_path / "b").read_bytes()))
    assert list(datasets.records([str(tmp_path / "b.gz")], "GZIP").as_numpy_iterator()) == [b"1", b"2"]


def test_nothing_is_tuned_also_of_what_is_made_of_it():
    """So that dropping an iterator does not wait for the thread that tunes."""
    assert tf.data.Dataset.range(3).options().autotune.enabled is None  # which means that it is
    dataset = datasets.records([]).batch(2).map(tf.identity, num_parallel_calls=2).prefetch(2)
    assert dataset.options().autotune.enabled is False
