# SPDX-License-Identifier: Apache-2.0
import numpy as np

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
