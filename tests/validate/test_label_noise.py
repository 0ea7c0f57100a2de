# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from components.validate import label_noise
from components.validate.limits import LabelLimits


def flipped(labels, share, seed):
    random = np.random.default_rng(seed)
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    result = labels.copy()
    result[chosen] = (labels[chosen] + random.integers(1, 10, len(chosen))) % 10
    return result


def quality(noise, labels, true):
    """Precision and recall of the suspects."""
    wrong = labels != true
    return wrong[noise.index].mean(), wrong[noise.index].sum() / wrong.sum()


def relabel(images, labels):
    return dataclasses.replace(images, labels=labels)


def test_clean_digits_pass_with_room(digit_splits):
    assert label_noise.find_label_noise(digit_splits["train"], 10).share < 0.003
    assert label_noise.check_label_noise(digit_splits["train"], 10) == []


def test_clean_mnist_passes_with_room(mnist_splits):
    noise = label_noise.find_label_noise(mnist_splits["train"], 10)

    assert noise.images == 55000
    assert noise.share < 0.003
    assert noise.agreement > 0.975
    assert label_noise.check_label_noise(mnist_splits["train"], 10, noise=noise) == []


@pytest.mark.parametrize(
    ("share", "seed", "precision", "recall"),
    [(0.05, 1, 0.95, 0.88), (0.05, 2, 0.95, 0.88), (0.2, 1, 0.95, 0.85), (0.4, 1, 0.9, 0.85)],
)
def test_flipped_labels_of_digits_are_found(digit_splits, share, seed, precision, recall):
    images = digit_splits["train"]
    labels = flipped(images.labels, share, seed)

    noise = label_noise.find_label_noise(relabel(images, labels), 10)

    measured = quality(noise, labels, images.labels)
    assert measured[0] >= precision
    assert measured[1] >= recall
    assert noise.share == pytest.approx(share, rel=0.15)
    np.testing.assert_array_equal(noise.labels, labels[noise.index])
    assert (noise.labels != noise.likely).all()
    assert (noise.likely == images.labels[noise.index]).mean() > 0.85
    assert (np.diff(noise.confidence) <= 0).all()
    assert noise.ids == tuple(images.ids[index] for index in noise.index)


def test_five_percent_flipped_labels_of_mnist_are_found(mnist_splits):
    images = mnist_splits["train"]
    labels = flipped(images.labels, 0.05, 1)

    precision, recall = quality(label_noise.find_label_noise(relabel(images, labels), 10), labels, images.labels)

    assert precision >= 0.95
    assert recall >= 0.93


@pytest.mark.parametrize(("share", "least"), [(0.05, 0.04), (0.2, 0.17), (0.4, 0.35)])
def test_flipped_labels_are_a_finding(digit_splits, share, least):
    images = relabel(digit_splits["train"], flipped(digit_splits["train"].labels, share, 1))

    (finding,) = label_noise.check_label_noise(images, 10)

    assert finding.name == "label-noise"
    assert finding.measured is not None
    assert finding.measured >= least
    assert finding.limit == 0.01
    assert finding.count == round(finding.measured * 1374)
    assert len(finding.examples) == 20
    assert f"{finding.count:,} of 1,374 training labels" in finding.sentence
    assert "--allow label-noise" in finding.sentence


@pytest.mark.parametrize(
    ("name", "fours_at", "least"),
    [
        ("digit_splits", "first", 0.013),
        ("digit_splits", "every second", 0.025),
        ("mnist_splits", "first", 0.03),
    ],
)
def test_half_of_the_fours_relabelled_nine_is_a_finding(request, name, fours_at, least):
    images = request.getfixturevalue(name)["train"]
    fours = np.flatnonzero(images.labels == 4)
    labels = images.labels.copy()
    labels[fours[: len(fours) // 2] if fours_at == "first" else fours[::2]] = 9

    (finding,) = label_noise.check_label_noise(relabel(images, labels), 10)

    assert finding.name == "label-noise"
    assert finding.measured is not None
    assert finding.measured > least
    assert "labels 9 (" in finding.sentence
    assert "look like 4" in finding.sentence


def test_confusion_of_two_classes_is_a_finding_before_it_counts_among_all(digit_splits):
    labels = digit_splits["train"].labels.copy()
    labels[np.flatnonzero(labels == 4)[::10]] = 9
    images = relabel(digit_splits["train"], labels)

    (finding,) = label_noise.check_label_noise(images, 10)

    assert finding.limit == 0.03
    assert finding.measured is not None
    assert finding.measured > 0.05
    assert "points over the limit of 3% for two classes" in finding.sentence
    assert label_noise.check_label_noise(images, 10, LabelLimits(pair=0.2)) == []
    assert label_noise.check_label_noise(images, 10, LabelLimits(pair_count=50)) == []


def test_the_same_seed_gives_the_same_result(digit_splits):
    images = relabel(digit_splits["train"], flipped(digit_splits["train"].labels, 0.05, 1))

    first, second = (label_noise.find_label_noise(images, 10, seed=4) for _ in range(2))

    assert first.ids == second.ids


def test_memory_for_few_images_gives_the_same_result(digit_splits, monkeypatch):
    images = relabel(digit_splits["train"], flipped(digit_splits["train"].labels, 0.05, 1))
    cached = label_noise.find_label_noise(images, 10)

    monkeypatch.setattr(label_noise, "_BLOCK", 200)
    monkeypatch.setattr(label_noise, "_CACHE_BYTES", 3 * 200 * 1200 * 4)
    computed_again = label_noise.find_label_noise(images, 10)

    assert len(cached.ids) > 50
    assert computed_again.ids == cached.ids
    assert np.allclose(computed_again.confidence, cached.confidence, atol=1e-4)


def test_labels_out_of_range_are_left_to_another_check(digit_splits):
    labels = digit_splits["train"].labels.copy()
    labels[:100] = 10
    labels[100:200] = -1

    noise = label_noise.find_label_noise(relabel(digit_splits["train"], labels), 10)

    assert noise.images == 1174
    assert noise.share < 0.005
    assert label_noise.check_label_noise(relabel(digit_splits["train"], labels), 10) == []


def test_a_handful_of_images_has_no_suspects(digit_splits):
    images = digit_splits["train"]
    few = dataclasses.replace(images, ids=images.ids[:3], pixels=images.pixels[:3], labels=images.labels[:3])

    assert label_noise.find_label_noise(few, 10).share == 0
    assert label_noise.check_label_noise(few, 10) == []


def describe(image):
    """Computes the descriptor pixel by pixel."""
    height, width = image.shape
    rows, columns = min(7, height), min(7, width)
    padded = np.pad(image.astype(float), 1)
    sums = np.zeros((4, 2, rows, columns))
    for y in range(height):
        for x in range(width):
            right = padded[y + 1, x + 2] - padded[y + 1, x]
            down = padded[y + 2, x + 1] - padded[y, x + 1]
            slopes = (right, (right + down) / np.sqrt(2), down, (down - right) / np.sqrt(2))
            for direction, slope in enumerate(slopes):
                sums[direction, int(slope < 0), y * rows // height, x * columns // width] += abs(slope)
    roots = np.sqrt(sums.ravel())
    return roots / max(np.linalg.norm(roots), 1e-6)


@pytest.mark.parametrize("shape", [(28, 28), (5, 9), (30, 13), (1, 1)])
def test_strokes_are_summed_by_direction_and_cell(shape, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, *shape), np.uint8)
    images[3] = 0
    monkeypatch.setattr(label_noise, "_CHUNK", 3)

    descriptors = label_noise._describe(images)

    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(descriptors.T, [describe(image) for image in images], atol=1e-6)
