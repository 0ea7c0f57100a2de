# SPDX-License-Identifier: Apache-2.0
import numpy as np

from components.validate import duplicates
from components.validate.images import Images

IMAGES = np.arange(6, dtype=np.uint8).repeat(6).reshape(6, 2, 3)


def splits_of(**rows):
    return {
        name: Images([""] * len(chosen), IMAGES[chosen], np.zeros(len(chosen), np.int64))
        for name, chosen in rows.items()
    }


def first_of(splits, among, split):
    return duplicates._first_of(splits, duplicates.hashes_of(splits), among, split).tolist()


def test_an_image_is_found_where_it_is_first(monkeypatch):
    splits = splits_of(all=range(6), one=[3, 1], other=[1, 4, 3], none=[])

    assert first_of(splits, ["one", "other"], "all") == [-1, 1, -1, 0, 3, -1]
    monkeypatch.setattr(duplicates, "_BLOCK", 2)
    assert first_of(splits, ["one", "other"], "all") == [-1, 1, -1, 0, 3, -1]
    assert first_of(splits, ["none"], "all") == [-1] * 6
    assert first_of(splits, ["all"], "none") == []


def test_the_same_hash_is_not_yet_the_same_image(monkeypatch):
    monkeypatch.setattr(duplicates, "_hashes", lambda images: np.zeros(len(images), np.uint64))

    assert first_of(splits_of(all=range(3)), ["all"], "all") == [0, -1, -1]
