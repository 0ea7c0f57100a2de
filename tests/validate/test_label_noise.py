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


def quality(noise, given, true):
    """Precision and recall of the suspects."""
    wrong = given != true
    return wrong[noise.index].mean(), wrong[noise.index].sum() / wrong.sum()


def labelled(images, labels):
    return dataclasses.replace(images, labels=labels)


def test_clean_digits_pass_with_room(digit_splits):
    assert label_noise.find_label_noise(digit_splits["train"], 10).share < 0.003
    assert label_noise.check_label_noise(digit_splits["train"], 10) == []


def test_clean_mnist_passes_with_room(mnist_splits):
    noise = label_noise.find_label_noise(mnist_splits["train"], 10)

    assert noise.images == 55000
    assert noise.share < 0.003
    assert noise.agreement > 0.975
    assert label_noise.check_label_noise(mnist_splits["train"], 10) == []


@pytest.mark.parametrize(
    ("share", "seed", "precision", "recall"),
    [(0.05, 1, 0.95, 0.88), (0.05, 2, 0.95, 0.88), (0.2, 1, 0.95, 0.85), (0.4, 1, 0.9, 0.85)],
)
def test_flipped_labels_of_digits_are_found(digit_splits, share, seed, precision, recall):
    images = digit_splits["train"]
    given = flipped(images.labels, share, seed)

    noise = label_noise.find_label_noise(labelled(images, given), 10)

    found = quality(noise, given, images.labels)
    assert found[0] >= precision
    assert found[1] >= recall
    assert noise.share == pytest.approx(share, rel=0.15)
    np.testing.assert_array_equal(noise.given, given[noise.index])
    assert (noise.given != noise.likely).all()
    assert (noise.likely == images.labels[noise.index]).mean() > 0.85
    assert (np.diff(noise.confidence) <= 0).all()
    assert noise.ids == tuple(images.ids[index] for index in noise.index)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_five_percent_flipped_labels_of_mnist_are_found(mnist_splits, seed):
    images = mnist_splits["train"]
    given = flipped(images.labels, 0.05, seed)

    precision, recall = quality(label_noise.find_label_noise(labelled(images, given), 10), given, images.labels)

    assert precision >= 0.95
    assert recall >= 0.93


@pytest.mark.parametrize(("share", "least"), [(0.05, 0.04), (0.2, 0.17), (0.4, 0.35)])
def test_flipped_labels_are_a_finding(digit_splits, share, least):
    images = labelled(digit_splits["train"], flipped(digit_splits["train"].labels, share, 1))

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
    ("name", "which", "least"),
    [
        ("digit_splits", "first", 0.013),
        ("digit_splits", "every second", 0.025),
        ("mnist_splits", "first", 0.03),
        ("mnist_splits", "every second", 0.03),
    ],
)
def test_half_of_the_fours_relabelled_nine_is_a_finding(request, name, which, least):
    images = request.getfixturevalue(name)["train"]
    fours = np.flatnonzero(images.labels == 4)
    given = images.labels.copy()
    given[fours[: len(fours) // 2] if which == "first" else fours[::2]] = 9

    (finding,) = label_noise.check_label_noise(labelled(images, given), 10)

    assert finding.name == "label-noise"
    assert finding.measured is not None
    assert finding.measured > least
    assert "labels 9 (" in finding.sentence
    assert "look like 4" in finding.sentence


def test_confusion_of_two_classes_is_a_finding_before_it_counts_among_all(digit_splits):
    labels = digit_splits["train"].labels.copy()
    labels[np.flatnonzero(labels == 4)[::10]] = 9
    images = labelled(digit_splits["train"], labels)

    (finding,) = label_noise.check_label_noise(images, 10)

    assert finding.limit == 0.03
    assert finding.measured is not None
    assert finding.measured > 0.05
    assert "points over the limit of 3% for two classes" in finding.sentence
    assert label_noise.check_label_noise(images, 10, LabelLimits(pair=0.2)) == []
    assert label_noise.check_label_noise(images, 10, LabelLimits(pair_count=50)) == []


def test_the_same_seed_gives_the_same_answer(digit_splits):
    images = labelled(digit_splits["train"], flipped(digit_splits["train"].labels, 0.05, 1))

    first, second = (label_noise.find_label_noise(images, 10, seed=4) for _ in range(2))

    assert first.ids == second.ids


def test_memory_for_few_images_gives_the_same_answer(digit_splits, monkeypatch):
    images = labelled(digit_splits["train"], flipped(digit_splits["train"].labels, 0.05, 1))
    kept = label_noise.find_label_noise(images, 10)

    monkeypatch.setattr(label_noise, "_BLOCK", 200)
    monkeypatch.setattr(label_noise, "_KEPT_BYTES", 3 * 200 * 1200 * 4)
    computed_again = label_noise.find_label_noise(images, 10)

    assert len(kept.ids) > 50
    assert computed_again.ids == kept.ids
    assert np.allclose(computed_again.confidence, kept.confidence, atol=1e-4)


def test_labels_out_of_range_are_left_to_another_check(digit_splits):
    labels = digit_splits["train"].labels.copy()
    labels[:100] = 10
    labels[100:200] = -1

    noise = label_noise.find_label_noise(labelled(digit_splits["train"], labels), 10)

    assert noise.images == 1174
    assert noise.share < 0.005
    assert label_noise.check_label_noise(labelled(digit_splits["train"], labels), 10) == []


def test_a_handful_of_images_has_no_suspects(digit_splits):
    images = digit_splits["train"]
    few = dataclasses.replace(images, ids=images.ids[:3], pixels=images.pixels[:3], labels=images.labels[:3])

    assert label_noise.find_label_noise(few, 10).share == 0
    assert label_noise.check_label_noise(few, 10) == []
