# SPDX-License-Identifier: Apache-2.0
import dataclasses
import pathlib
import shutil
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from components import array_store, features
from components.ingest import encode
from components.validate import image_check, images, label_noise
from components.validate.images import Joined, blocks


def test_several_arrays_are_read_like_a_single_array():
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (count, 2, 3), np.uint8) for count in (4, 0, 5)]
    joined = np.concatenate(arrays)
    rows = np.array([8, 0, 3, 4, 4])

    assert len(Joined(arrays)) == 9
    assert np.array_equal(Joined(arrays)[rows], joined[rows])
    assert Joined(arrays)[rows].dtype == np.uint8
    assert Joined(arrays)[rows[:0]].shape == (0, 2, 3)

    order = random.permutation(9)
    assert np.array_equal(Joined(arrays, order)[rows], joined[order][rows])


def test_blocks_are_in_order_and_complete():
    assert [block.tolist() for block in blocks(5, 2)] == [[0, 1], [2, 3], [4]]
    assert list(blocks(0, 2)) == []


def test_the_checks_find_the_same_on_disk_both_at_a_time(digit_splits):
    damaged = digit_splits["test"].pixels.copy()
    damaged[3], damaged[5] = 255 - damaged[3], digit_splits["train"].pixels[9]
    splits = digit_splits | {"test": dataclasses.replace(digit_splits["test"], pixels=damaged)}
    on_disk = {
        name: dataclasses.replace(split, pixels=array_store.store([split.pixels], split.__len__, 0))
        for name, split in splits.items()
    }
    results = []
    for stored in (splits, on_disk):
        training = images.in_file_order(stored[features.TRAIN], stored[features.VAL])
        with futures.ThreadPoolExecutor(1) as pool:
            findings = pool.submit(image_check.check, stored)
            results.append((label_noise.find_label_noise(training, 10).to_rows(), findings.result()))
    assert results[0][1]
    assert results[0] == results[1]


@pytest.mark.parametrize("limit", [10**9, 5 * 28 * 28], ids=["memory", "train on disk"])
def test_examples_are_read_also_in_the_order_of_the_file(limit, tmp_path, monkeypatch):
    # The folder's name is no pattern that matches its neighbour.
    shutil.copytree(pathlib.Path(__file__).parent, tmp_path / "b1" / f"Split-{features.TRAIN}")
    tmp_path /= "b?"
    tmp_path.mkdir()
    monkeypatch.setattr(images, "_BATCH", 3)
    monkeypatch.setattr(images, "_MEMORY_BYTES", limit)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (10, *features.IMAGE_SHAPE), np.uint8)
    labels = random.integers(0, 10, 10, np.uint8)
    indices = {features.TRAIN: np.array([0, 2, 3, 5, 6, 8, 9]), features.VAL: np.array([1, 4, 7])}
    for split, rows in indices.items():
        (tmp_path / f"Split-{split}").mkdir()
        for number, part in enumerate(np.array_split(rows, 2)):
            with tf.io.TFRecordWriter(str(tmp_path / f"Split-{split}/data-{number}")) as writer:
                for example in encode.examples(pixels[part], labels[part], "file", part):
                    writer.write(example)

    splits = {split: images.load_images(str(tmp_path), split) for split in indices}

    for split, rows in indices.items():
        assert splits[split].ids == [f"file#{row}" for row in rows]
        assert np.array_equal(splits[split].pixels[np.arange(len(rows))], pixels[rows])
        assert np.array_equal(splits[split].labels, labels[rows])
    assert isinstance(splits[features.TRAIN].pixels, np.ndarray) == (limit == 10**9)
    joined = images.in_file_order(*splits.values())
    assert joined.ids == [f"file#{row}" for row in range(10)]
    assert np.array_equal(joined.pixels[np.arange(10)], pixels)
    assert np.array_equal(joined.labels, labels)
