# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from components import features
from components.errors import BadInput
from components.train import data
from components.train.data import TransformGraph

IMAGES = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) + np.zeros((10, 4, 4, 1), np.float32)
LABELS = np.arange(10)


def take(count, **arguments):
    options = {"batch_size": 4, "seed": 3, **arguments}
    images = data.InMemoryDataset(IMAGES, LABELS)
    return list(data.batches(images, **options).take(count).as_numpy_iterator())


def test_load_gives_every_image_transformed_in_order(inputs):
    transform = TransformGraph(inputs.artifacts["transform_graph"].uri)
    loaded = data.load([f"{inputs.artifacts['examples'].uri}/Split-train/*"], transform, "train")
    images, labels = loaded.images[np.arange(len(loaded))], loaded.labels
    expected_images, expected_labels = inputs.splits[features.TRAIN]
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_allclose(images, expected_images[..., None] / np.float32(255), rtol=1e-7)
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("name", ["b?", "b*", "b[1]", "b\\1"])
def test_a_folder_is_no_pattern(tmp_path, name):
    for folder in ("b1", name):
        (tmp_path / folder / "Split-train").mkdir(parents=True)
        (tmp_path / folder / "Split-train" / "data").touch()
    assert data.files_of([f"{tmp_path / name}/Split-train/*"]) == [f"{tmp_path / name}/Split-train/data"]


@pytest.mark.parametrize("make_file", [False, True])
def test_an_empty_split_is_refused(tmp_path, make_file):
    if make_file:
        (tmp_path / "data_tfrecord-00000-of-00001").touch()
    with pytest.raises(BadInput, match=f"'val' must hold at least one example, but {int(make_file)} files"):
        data.load([f"{tmp_path}/*"], lambda image: image, "val")


def test_a_pass_shows_every_image_and_its_own_label():
    batches = take(3)
    assert [images.shape for images, _ in batches] == [(4, 4, 4, 1)] * 3
    labels = np.concatenate([labels for _, labels in batches])
    assert set(labels) == set(range(10))
    # The last batch is filled up from the start of the pass.
    np.testing.assert_array_equal(labels[10:], labels[:2])
    for images, labels in batches:
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_each_pass_has_its_own_order():
    labels = np.concatenate([labels for _, labels in take(6)]).reshape(2, 12)
    assert labels[0].tolist() != labels[1].tolist()
    assert labels[0].tolist() != sorted(labels[0])


def test_the_order_follows_from_seed_and_pass():
    def order(**arguments):
        return np.concatenate([labels for _, labels in take(3, **arguments)]).tolist()

    assert order() == order()
    assert order(seed=4) != order()
    later = np.concatenate([labels for _, labels in take(6)[3:]]).tolist()
    assert order(first_pass=1) == later


def test_a_batch_may_be_larger_than_the_data():
    ((_, labels),) = take(1, batch_size=25)
    assert np.bincount(labels).min() >= 2
    assert data.steps_per_pass(10, 25) == 1
    assert data.steps_per_pass(10, 4) == 3


def test_replicas_share_each_batch_in_order():
    whole = take(3, batch_size=4)
    parts = take(6, batch_size=4, replicas=2)
    first, second = (take(3, batch_size=4, replicas=2, mine=slice(one, one + 1)) for one in range(2))
    for number, (images, labels) in enumerate(whole):
        assert labels.tolist() == [*parts[2 * number][1], *parts[2 * number + 1][1]]
        assert labels.tolist() == [*first[number][1], *second[number][1]]
        np.testing.assert_array_equal(images, np.concatenate([first[number][0], second[number][0]]))


def test_val_comes_in_its_order():
    found = list(data.in_order(data.InMemoryDataset(IMAGES, LABELS), 4).as_numpy_iterator())
    assert [len(images) for images in found] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(found), IMAGES)


def test_the_datasets_of_a_training_are_not_tuned():
    """Dropping the iterator of one that is can hold the evaluation up for half a minute, see `datasets.untuned`."""
    images = data.InMemoryDataset(IMAGES, LABELS)
    for dataset in (data.batches(images, 4, 1), data.in_order(images, 4)):
        assert dataset.options().autotune.enabled is False
