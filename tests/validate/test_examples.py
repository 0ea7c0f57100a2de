# SPDX-License-Identifier: Apache-2.0
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from components import features
from components.ingest import encode
from components.validate import images


@pytest.mark.parametrize("limit", [10**9, 5 * 28 * 28], ids=["memory", "train on disk"])
def test_what_was_written_comes_back_also_in_the_order_of_the_file(limit, tmp_path, monkeypatch):
    # Whatever the folder is called, and whatever lies beside it.
    shutil.copytree(pathlib.Path(__file__).parent, tmp_path / "b1" / f"Split-{features.TRAIN}")
    tmp_path /= "b?"
    tmp_path.mkdir()
    monkeypatch.setattr(images, "_BATCH", 3)
    monkeypatch.setattr(images, "_MEMORY_BYTES", limit)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (10, *features.IMAGE_SHAPE), np.uint8)
    labels = random.integers(0, 10, 10, np.uint8)
    chosen = {features.TRAIN: np.array([0, 2, 3, 5, 6, 8, 9]), features.VAL: np.array([1, 4, 7])}
    for split, rows in chosen.items():
        (tmp_path / f"Split-{split}").mkdir()
        for number, part in enumerate(np.array_split(rows, 2)):
            with tf.io.TFRecordWriter(str(tmp_path / f"Split-{split}/data-{number}")) as writer:
                for example in encode.examples(pixels[part], labels[part], "file", part):
                    writer.write(example)

    splits = {split: images.load_images(str(tmp_path), split) for split in chosen}

    for split, rows in chosen.items():
        assert splits[split].ids == [f"file#{row}" for row in rows]
        assert np.array_equal(splits[split].pixels[np.arange(len(rows))], pixels[rows])
        assert np.array_equal(splits[split].labels, labels[rows])
    assert isinstance(splits[features.TRAIN].pixels, np.ndarray) == (limit == 10**9)
    joined = images.in_file_order(*splits.values())
    assert joined.ids == [f"file#{row}" for row in range(10)]
    assert np.array_equal(joined.pixels[np.arange(10)], pixels)
    assert np.array_equal(joined.labels, labels)
