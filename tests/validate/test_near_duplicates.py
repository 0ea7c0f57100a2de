# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from components.validate import duplicates


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
    np.testing.assert_array_equal(pairs.others, order[pairs.images])
    assert (np.diff(pairs.distances) >= 0).all()
    assert pairs.distances[-1] < 0.35


def test_the_distance_is_the_one_that_is_described():
    images = np.zeros((3, 5, 7), np.uint8)
    images[:, 4, 6] = 255, 155, 15

    # Far from each other, so that the usual distance is large.
    others = np.zeros((2, 5, 7), np.uint8)
    others[0, 4, 6] = 205
    others[1, :4, :4] = 255

    pairs = duplicates.find_near_duplicates(images, others, 0.5)

    # (239 - 189) / 255 / 2 and (189 - 139) / 255 / 2; 15 is taken for noise.
    np.testing.assert_array_equal(pairs.others, [0, 0, 0])
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
    copies = noisy(train[:10000], noises(train[:10000].shape)["normal"])

    pairs = duplicates.find_near_duplicates(copies, train, 0.4)

    assert len(pairs.images) == 10000
    np.testing.assert_array_equal(pairs.others, pairs.images)
    assert pairs.distances[-1] < 0.33


def test_a_set_of_drawn_symbols_passes():
    random = np.random.default_rng(3)
    symbols = np.zeros((4, 32, 32), np.uint8)
    for index, symbol in enumerate(symbols):
        symbol[8 * index : 8 * index + 8, 8:24] = 255
    drawn = noisy(symbols[random.integers(0, 4, 600)], random.normal(0, 6, (600, 32, 32)))

    assert len(duplicates.find_near_duplicates(drawn[:100], drawn[100:], 0.4).images) == 0


def test_nothing_is_near_to_nothing(digit_splits):
    images = digit_splits["test"].pixels

    assert len(duplicates.find_near_duplicates(images, images[:0], 0.4).images) == 0
    assert len(duplicates.find_near_duplicates(images[:0], images, 0.4).images) == 0


def test_blocks_of_any_size_give_the_same_answer(digit_splits, monkeypatch):
    train = digit_splits["train"].pixels
    images = np.concatenate([train[:100], noisy(train[700:800], noises(train[700:800].shape)["normal"])])
    whole = duplicates.find_near_duplicates(images, train[300:], 0.4)

    monkeypatch.setattr(duplicates, "_COLUMNS", 100)
    monkeypatch.setattr(duplicates, "_ROWS", 7)
    in_blocks = duplicates.find_near_duplicates(images, train[300:], 0.4)

    assert sorted(whole.others) == list(range(400, 500))
    # Two at nearly the same distance may change places.
    assert dict(zip(in_blocks.images, in_blocks.others, strict=True)) == dict(
        zip(whole.images, whole.others, strict=True)
    )
    assert np.allclose(in_blocks.distances, whole.distances, atol=1e-4)
