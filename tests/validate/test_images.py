# SPDX-License-Identifier: Apache-2.0
import dataclasses
from concurrent import futures

import numpy as np

from components import array_store, features
from components.validate import image_check, images, label_noise
from components.validate.images import Joined, blocks


def test_several_arrays_are_as_one():
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (count, 2, 3), np.uint8) for count in (4, 0, 5)]
    whole = np.concatenate(arrays)
    rows = np.array([8, 0, 3, 4, 4])

    assert len(Joined(arrays)) == 9
    assert np.array_equal(Joined(arrays)[rows], whole[rows])
    assert Joined(arrays)[rows].dtype == np.uint8
    assert Joined(arrays)[rows[:0]].shape == (0, 2, 3)

    order = random.permutation(9)
    assert np.array_equal(Joined(arrays, order)[rows], whole[order][rows])


def test_blocks_are_in_order_and_leave_nothing_out():
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
    found = []
    for some in (splits, on_disk):
        training = images.in_file_order(some[features.TRAIN], some[features.VAL])
        with futures.ThreadPoolExecutor(1) as beside:
            looked = beside.submit(image_check.check, some)
            found.append((label_noise.find_label_noise(training, 10).to_rows(), looked.result()))
    assert found[0][1]
    assert found[0] == found[1]
