# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from components.validate import duplicates
from components.validate.images import Images

IMAGES = np.arange(6, dtype=np.uint8).repeat(6).reshape(6, 2, 3)


def splits_of(**rows):
    return {
        name: Images([""] * len(indices), IMAGES[indices], np.zeros(len(indices), np.int64))
        for name, indices in rows.items()
    }


def first_of(splits, among, split):
    return duplicates._first_of(splits, duplicates.hash_images(splits), among, split).tolist()


def test_the_first_position_of_an_image_is_found(monkeypatch):
    splits = splits_of(all=range(6), first=[3, 1], second=[1, 4, 3], empty=[])

    assert first_of(splits, ["first", "second"], "all") == [-1, 1, -1, 0, 3, -1]
    monkeypatch.setattr(duplicates, "_BLOCK", 2)
    assert first_of(splits, ["first", "second"], "all") == [-1, 1, -1, 0, 3, -1]
    assert first_of(splits, ["empty"], "all") == [-1] * 6
    assert first_of(splits, ["all"], "empty") == []


def test_images_of_the_same_hash_are_compared(monkeypatch):
    monkeypatch.setattr(duplicates, "_hashes", lambda images: np.zeros(len(images), np.uint64))

    assert first_of(splits_of(all=range(3)), ["all"], "all") == [0, -1, -1]


def noisy(images, noise):
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def noises(shape):
    random = np.random.default_rng(1)
    return {
        "normal": random.normal(0, 8, shape),
        "uniform": random.uniform(-8, 8, shape),
        "either": random.choice([-8, 8], shape),
    }


@pytest.mark.parametrize("kind", ["normal", "uniform", "either"])
def test_noisy_copies_are_found_with_their_originals(digit_splits, kind):
    originals = digit_splits["train"].pixels
    order = np.random.default_rng(2).permutation(len(originals))[:200]
    copies = noisy(originals[order], noises(originals[order].shape)[kind])

    pairs = duplicates.find_near_duplicates(copies, originals, 0.4)

    assert len(pairs.images) == 200
    np.testing.assert_array_equal(pairs.references, order[pairs.images])
    assert (np.diff(pairs.distances) >= 0).all()
    assert pairs.distances[-1] < 0.35


def test_the_distance_follows_its_definition():
    images = np.zeros((3, 5, 7), np.uint8)
    images[:, 4, 6] = 255, 155, 15

    # Far from each other, so that the usual distance is large.
    references = np.zeros((2, 5, 7), np.uint8)
    references[0, 4, 6] = 205
    references[1, :4, :4] = 255

    pairs = duplicates.find_near_duplicates(images, references, 0.5)

    # (239 - 189) / 255 / 2 and (189 - 139) / 255 / 2; 15 counts as noise.
    np.testing.assert_array_equal(pairs.references, [0, 0, 0])
    np.testing.assert_allclose(pairs.distances, [50 / 510, 50 / 510, 189 / 510], rtol=1e-3)
    assert pairs.images[2] == 2


def test_clean_digits_have_none_and_room_to_the_limit(digit_splits):
    test, train = digit_splits["test"].pixels, digit_splits["train"].pixels

    assert len(duplicates.find_near_duplicates(test, train, 0.4).images) == 0
    assert len(duplicates.find_near_duplicates(test, train, 0.75).images) == 0
    # Two training images of scikit-learn's digits are that close.
    assert len(duplicates.find_near_duplicates(train[:700], train[700:], 0.9).images) > 0


def test_clean_mnist_has_none_and_room_to_the_limit(mnist_splits):
    train = np.concatenate([mnist_splits["train"].pixels, mnist_splits["val"].pixels])

    assert len(duplicates.find_near_duplicates(mnist_splits["test"].pixels, train, 0.45).images) == 0


def test_all_noisy_copies_of_mnist_are_found(mnist_splits):
    train = mnist_splits["train"].pixels
    copies = noisy(train[:2000], noises(train[:2000].shape)["normal"])

    pairs = duplicates.find_near_duplicates(copies, train, 0.4)

    assert len(pairs.images) == 2000
    np.testing.assert_array_equal(pairs.references, pairs.images)
    assert pairs.distances[-1] < 0.33


def test_a_set_of_drawn_symbols_passes():
    random = np.random.default_rng(3)
    symbols = np.zeros((4, 32, 32), np.uint8)
    for index, symbol in enumerate(symbols):
        symbol[8 * index : 8 * index + 8, 8:24] = 255
    drawn = noisy(symbols[random.integers(0, 4, 600)], random.normal(0, 6, (600, 32, 32)))

    assert len(duplicates.find_near_duplicates(drawn[:100], drawn[100:], 0.4).images) == 0


def test_an_empty_set_has_no_near_copies(digit_splits):
    images = digit_splits["test"].pixels

    assert len(duplicates.find_near_duplicates(images, images[:0], 0.4).images) == 0
    assert len(duplicates.find_near_duplicates(images[:0], images, 0.4).images) == 0


def test_blocks_of_any_size_give_the_same_result(digit_splits, monkeypatch):
    train = digit_splits["train"].pixels
    images = np.concatenate([train[:100], noisy(train[700:800], noises(train[700:800].shape)["normal"])])
    at_once = duplicates.find_near_duplicates(images, train[300:], 0.4)

    monkeypatch.setattr(duplicates, "_COLUMNS", 100)
    monkeypatch.setattr(duplicates, "_ROWS", 7)
    in_blocks = duplicates.find_near_duplicates(images, train[300:], 0.4)

    assert sorted(at_once.references) == list(range(400, 500))
    # Two at nearly the same distance may be in either order.
    assert dict(zip(in_blocks.images, in_blocks.references, strict=True)) == dict(
        zip(at_once.images, at_once.references, strict=True)
    )
    assert np.allclose(in_blocks.distances, at_once.distances, atol=1e-4)
