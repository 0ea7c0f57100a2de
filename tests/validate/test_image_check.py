# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from components.validate import image_check
from components.validate.limits import PixelLimits


def having(splits, split, chosen=None, **changed):
    """The splits with one of them changed: the images chosen from it, with other pixels or labels."""
    images = splits[split]
    if chosen is not None:
        ids = [images.ids[index] for index in chosen]
        images = dataclasses.replace(images, ids=ids, pixels=images.pixels[chosen], labels=images.labels[chosen])
    return {**splits, split: dataclasses.replace(images, **changed)}


def names(findings):
    return [finding.name for finding in findings]


def noisy(images, seed=0):
    noise = np.random.default_rng(seed).normal(0, 8, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def test_clean_digits_pass(digit_splits):
    assert [len(images) for images in digit_splits.values()] == [1374, 124, 299]
    assert image_check.check(digit_splits) == []


def test_clean_mnist_passes(mnist_splits):
    assert image_check.check(mnist_splits) == []


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_out_of_range(digit_splits, split):
    labels = digit_splits[split].labels.copy()
    labels[[3, 5]] = 10, -1

    (finding,) = image_check.check(having(digit_splits, split, labels=labels))

    assert finding.name == "label-out-of-range"
    assert (finding.measured, finding.limit, finding.count) == (2, 0, 2)
    assert finding.examples == (digit_splits[split].ids[3], digit_splits[split].ids[5])
    assert f"2 of {len(labels):,} {split} images" in finding.sentence
    assert "outside 0 to 9 (such as -1, 10); none is allowed: " in finding.sentence
    assert "--allow label-out-of-range" in finding.sentence


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_class(digit_splits, split):
    chosen = np.flatnonzero(digit_splits[split].labels != 7)

    finding = image_check.check(having(digit_splits, split, chosen))[0]

    assert finding.name == "class-missing"
    assert (finding.measured, finding.limit) == (0, 1)
    assert f"in {split} than the limit of 1, by up to 1, namely 7 (0)" in finding.sentence


def test_a_class_below_the_minimum_count(digit_splits):
    findings = image_check.check(digit_splits, PixelLimits(class_count=100))

    assert names(findings) == ["class-missing", "class-missing"]
    assert "10 of 10 classes have fewer images in val than the limit of 100" in findings[0].sentence


def test_an_empty_split_misses_every_class(digit_splits):
    findings = image_check.check(having(digit_splits, "val", np.arange(0)))

    assert names(findings) == ["class-missing"]
    assert "10 of 10 classes" in findings[0].sentence


def test_half_of_a_class_taken_from_train_is_uneven(digit_splits):
    fours = np.flatnonzero(digit_splits["train"].labels == 4)
    chosen = np.setdiff1d(np.arange(1374), fours[::2])

    (finding,) = image_check.check(having(digit_splits, "train", chosen))

    assert finding.name == "class-balance"
    most = np.bincount(digit_splits["train"].labels[chosen]).max()
    assert finding.measured == pytest.approx(most / (len(fours) // 2))
    assert finding.limit == pytest.approx(1.90, abs=0.02)
    assert f"class 4 has {len(fours) // 2}" in finding.sentence


def test_a_test_split_of_another_balance(digit_splits):
    ones = np.flatnonzero(digit_splits["test"].labels == 1)
    chosen = np.concatenate([np.arange(299)[::3], ones])

    findings = [f for f in image_check.check(having(digit_splits, "test", chosen)) if f.name == "class-balance"]

    assert len(findings) == 1
    assert findings[0].sentence.startswith("Class 1 is 10.")
    assert findings[0].count == 0


@pytest.mark.parametrize("label", range(10))
def test_half_of_any_class_of_mnist_is_missed(mnist_splits, label):
    members = np.flatnonzero(mnist_splits["train"].labels == label)
    chosen = np.setdiff1d(np.arange(55000), members[::2])
    splits = {
        name: dataclasses.replace(images, pixels=images.pixels[:, :1, :1]) for name, images in mnist_splits.items()
    }

    findings = [f for f in image_check.check(having(splits, "train", chosen)) if f.name == "class-balance"]

    # In train itself, against val and against test.
    assert len(findings) == 3
    assert all(f"lass {label} " in finding.sentence for finding in findings)


@pytest.mark.parametrize("share", [0.01, 1])
def test_inverted_pixels(digit_splits, share):
    images = digit_splits["train"].pixels.copy()
    count = round(share * len(images))
    images[:count] = 255 - images[:count]

    (finding,) = image_check.check(having(digit_splits, "train", pixels=images))

    assert finding.name == "inverted-pixels"
    assert finding.count == count
    assert finding.measured == pytest.approx(share, rel=0.02)
    assert finding.examples == tuple(digit_splits["train"].ids[: min(count, 20)])
    assert f"{count:,} of 1,374 train images" in finding.sentence


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image(digit_splits, value):
    images = digit_splits["test"].pixels.copy()
    images[7] = value

    findings = image_check.check(having(digit_splits, "test", pixels=images), PixelLimits(inverted=0.01))

    assert names(findings) == ["blank-image"]
    assert findings[0].examples == (digit_splits["test"].ids[7],)
    assert "1 of 299 test images (0.334%)" in findings[0].sentence
    assert "0.334 points over the limit of 0%" in findings[0].sentence


def test_an_image_with_a_single_white_pixel_is_blank(digit_splits):
    images = digit_splits["train"].pixels.copy()
    images[7] = 0
    images[7, 14, 14] = 255

    assert names(image_check.check(having(digit_splits, "train", pixels=images))) == ["blank-image"]


def test_duplicates_within_a_split(digit_splits):
    images = digit_splits["train"].pixels.copy()
    images[1:11] = images[0]

    (finding,) = image_check.check(having(digit_splits, "train", pixels=images))

    assert finding.name == "duplicate-images"
    assert (finding.count, finding.measured, finding.limit) == (10, 10 / 1374, 0.0002)
    assert finding.examples == tuple(digit_splits["train"].ids[1:11])


def test_few_duplicates_are_let_through_where_the_limit_is_higher(digit_splits):
    images = digit_splits["train"].pixels.copy()
    images[1:11] = images[0]

    assert image_check.check(having(digit_splits, "train", pixels=images), PixelLimits(duplicates=0.01)) == []


def test_training_images_in_val_are_duplicates(digit_splits):
    images = digit_splits["val"].pixels.copy()
    images[:2] = digit_splits["train"].pixels[:2]

    (finding,) = image_check.check(having(digit_splits, "val", pixels=images))

    assert finding.name == "duplicate-images"
    assert finding.examples == tuple(digit_splits["val"].ids[:2])
    assert "repeat another image of val or train" in finding.sentence


@pytest.mark.parametrize("source", ["train", "val"])
def test_an_image_that_is_in_test_too(digit_splits, source):
    images = digit_splits["test"].pixels.copy()
    images[5] = digit_splits[source].pixels[9]

    (finding,) = image_check.check(having(digit_splits, "test", pixels=images))

    assert finding.name == "test-leak"
    assert (finding.measured, finding.limit, finding.count) == (1, 0, 1)
    assert finding.examples == (digit_splits["test"].ids[5],)
    assert f"{digit_splits['test'].ids[5]}, which is {digit_splits[source].ids[9]} of {source}" in finding.sentence
    assert image_check.check(having(digit_splits, "test", pixels=images), PixelLimits(leaked=1)) == []


@pytest.mark.parametrize("source", ["train", "val"])
def test_a_noisy_copy_of_an_image_in_test(digit_splits, source):
    images = digit_splits["test"].pixels.copy()
    images[5] = noisy(digit_splits[source].pixels[9])

    (finding,) = image_check.check(having(digit_splits, "test", pixels=images))

    assert finding.name == "near-test-leak"
    assert (finding.measured, finding.limit, finding.count) == (1, 0, 1)
    assert finding.examples == (digit_splits["test"].ids[5],)
    assert f"are {digit_splits['test'].ids[5]} and {digit_splits[source].ids[9]} of {source}" in finding.sentence


def test_mnist_with_training_images_repeated_as_test_images(mnist_splits):
    images = mnist_splits["test"].pixels.copy()
    images[:100] = mnist_splits["train"].pixels[:100]
    images[100:200] = noisy(mnist_splits["val"].pixels[100:200])

    exact, near = image_check.check(having(mnist_splits, "test", pixels=images))

    assert (exact.name, exact.count) == ("test-leak", 100)
    assert (near.name, near.count) == ("near-test-leak", 100)
    assert len(near.examples) == 20
