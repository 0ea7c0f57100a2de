# SPDX-License-Identifier: Apache-2.0
import numpy as np

from components.validate import copies
from components.validate.images import Joined


def test_an_image_is_found_where_it_is_first(monkeypatch):
    images = np.arange(6, dtype=np.uint8).repeat(6).reshape(6, 2, 3)
    known = Joined([images[[3, 1]], images[[1, 4, 3]]])

    assert copies._first_of(known, images).tolist() == [-1, 1, -1, 0, 3, -1]
    monkeypatch.setattr(copies, "_BLOCK", 2)
    assert copies._first_of(known, images).tolist() == [-1, 1, -1, 0, 3, -1]
    assert copies._first_of(Joined([images[:0]]), images).tolist() == [-1] * 6


def test_the_same_hash_is_not_yet_the_same_image(monkeypatch):
    monkeypatch.setattr(copies, "_hashes", lambda images: np.zeros(len(images), np.uint64))
    images = np.arange(3, dtype=np.uint8).repeat(6).reshape(3, 2, 3)

    assert copies._first_of(Joined([images]), images).tolist() == [0, -1, -1]
