# SPDX-License-Identifier: Apache-2.0
import importlib.util

import numpy as np
import pytest

from components.errors import BadInput, ProjectError
from components.ingest import digits, encode, idx, source


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    digits.write(folder)
    return folder


def test_the_same_bytes_are_written_on_every_machine(written):
    dataset, _ = source.load(written, None, (28, 28))

    assert dataset.name == "digits"
    assert dataset.digests == digits.DIGESTS
    assert dataset.sha256 == "dd1a7ebe4915ae930e102f37266aeaca7b579d6b3cff9d630a16cc1fdb7d1004"
    assert (dataset.train_images, dataset.test_images) == (1498, 299)
    assert sorted(path.name for path in written.iterdir()) == sorted(idx.FILES)


def test_they_are_the_digits_of_scikit_learn(written):
    from sklearn.datasets import load_digits

    original = load_digits()
    test = encode.lowest_ranks(1797, 299)
    _, contents = source.load(written, None, (28, 28))

    np.testing.assert_array_equal(contents[idx.TEST_LABELS].array, original.target[test])
    np.testing.assert_array_equal(contents[idx.TRAIN_LABELS].array, np.delete(original.target, test))
    # The ink of each image grows by the area, 2.5 x 2.5, and by the range, 255 / 16, up to what clipping takes.
    ink = contents[idx.TEST_IMAGES].array.sum(axis=(1, 2), dtype=np.int64)
    np.testing.assert_allclose(ink, original.images[test].sum(axis=(1, 2)) * 6.25 * 255 / 16, rtol=0.08)
    assert np.bincount(contents[idx.TEST_LABELS].array).min() >= 20


def test_an_image_is_scaled_and_centred_by_mass(written):
    image = np.zeros((1, 8, 8), np.uint8)
    image[0, 1:5, 3:6] = 16

    scaled = digits.to_mnist_form(image)[0].astype(float)

    assert scaled.max() == 255
    # 4 x 3 pixels become 10 x 7.5, at half of the brightness or more.
    assert (scaled >= 128).any(axis=1).sum() in (10, 11)
    assert (scaled >= 128).any(axis=0).sum() in (7, 8)
    _, contents = source.load(written, None, (28, 28))
    for centred in (scaled, *contents[idx.TEST_IMAGES].array[:50].astype(float)):
        centre = [(centred.sum(axis=axis) * (np.arange(28) + 0.5)).sum() / centred.sum() for axis in (0, 1)]
        np.testing.assert_allclose(centre, 14, atol=0.51)


def test_a_blank_image_stays_blank():
    assert digits.to_mnist_form(np.zeros((1, 8, 8), np.uint8)).sum() == 0


def test_interpolation_keeps_a_constant():
    inside = digits.to_mnist_form(np.full((1, 8, 8), 12, np.uint8))[0, 9:19, 9:19]

    np.testing.assert_array_equal(inside, round(12 * 255 / 16))


def test_without_scikit_learn_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ProjectError, match="scikit-learn, which is not installed"):
        digits.write(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(BadInput, match=r"file/digits cannot be written .* XDG_CACHE_HOME"):
        digits.write(tmp_path / "file" / "digits")
