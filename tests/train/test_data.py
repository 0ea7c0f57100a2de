# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components import array_store, features
from components.errors import BadInput
from components.train import data
from components.train.data import InMemoryDataset
from tests import memory

IMAGES = np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) + np.zeros((10, 4, 4, 1), np.float32)
LABELS = np.arange(10)


# Stores 200 MB of images on disk and prints the type of the store and the growth of the process's peak memory in MB.
STORE_ON_DISK = """
import numpy as np
from components.train import data
data.MEMORY_BYTES = 0
block = lambda index: (np.full((1000, 50, 50, 1), index, np.float32), np.full(1000, index % 10))
list(data.train_batches(data.store_images([block(0)], lambda: 1000), 100, 1).take(3))
before = peak()
dataset = data.store_images(map(block, range(20)), lambda: 20000)
for batch, _ in data.train_batches(dataset, 100, 1).take(300):
    pass
print(type(dataset.images).__name__, peak() - before)
"""


def take(count, **options):
    options = {"batch_size": 4, "seed": 3, **options}
    return list(data.train_batches(InMemoryDataset(IMAGES, LABELS), **options).take(count).as_numpy_iterator())


def test_load_gives_every_image_transformed_in_order(inputs, splits):
    train_data, _ = splits
    images, labels = train_data.images[np.arange(len(train_data))], train_data.labels
    expected_images, expected_labels = inputs.splits[features.TRAIN]
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_allclose(images, expected_images[..., None] / np.float32(255), rtol=1e-7)
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("limit", [10**9, 0], ids=["memory", "disk"])
def test_images_are_stored_in_memory_or_on_disk(limit, monkeypatch):
    monkeypatch.setattr(data, "MEMORY_BYTES", limit)
    blocks = ((IMAGES[start : start + 4], LABELS[start : start + 4]) for start in range(0, 10, 4))
    dataset = data.store_images(blocks, lambda: 10)
    assert isinstance(dataset.images, np.ndarray if limit else array_store.DiskArray)
    assert len(dataset) == 10
    gathered = tf.data.Dataset.from_tensor_slices([[3, 4], [8, 0]]).map(dataset.gather)
    assert [tuple(spec.shape) for spec in gathered.element_spec] == [(2, 4, 4, 1), (2,)]
    (_, (images, labels)) = list(gathered.as_numpy_iterator())
    np.testing.assert_array_equal(images, IMAGES[[8, 0]])
    assert labels.tolist() == [8, 0]


def test_images_on_disk_take_no_memory():
    kind, growth = memory.measure(STORE_ON_DISK)
    assert kind == "DiskArray"
    assert float(growth) < 60  # of 200 MB


@pytest.mark.parametrize("name", ["b?", "b*", "b[1]", "b\\1"])
def test_wildcards_in_a_folder_name_are_literal(tmp_path, name):
    for folder in ("b1", name):
        (tmp_path / folder / "Split-train").mkdir(parents=True)
        (tmp_path / folder / "Split-train" / "data").touch()
    assert data.list_files([f"{tmp_path / name}/Split-train/*"]) == [f"{tmp_path / name}/Split-train/data"]


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
    batches = take(3, batch_size=4)
    parts = take(6, batch_size=4, replicas=2)
    first, second = (take(3, batch_size=4, replicas=2, shards=slice(shard, shard + 1)) for shard in range(2))
    for index, (images, labels) in enumerate(batches):
        assert labels.tolist() == [*parts[2 * index][1], *parts[2 * index + 1][1]]
        assert labels.tolist() == [*first[index][1], *second[index][1]]
        np.testing.assert_array_equal(images, np.concatenate([first[index][0], second[index][0]]))


def test_eval_batches_are_in_order():
    batches = list(data.eval_batches(InMemoryDataset(IMAGES, LABELS), 4).as_numpy_iterator())
    assert [len(images) for images in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES)


def test_autotuning_is_disabled():
    """Dropping the iterator of an autotuned dataset can block for half a minute, see `datasets.untuned`."""
    dataset = InMemoryDataset(IMAGES, LABELS)
    for batches in (data.train_batches(dataset, 4, 1), data.eval_batches(dataset, 4)):
        assert batches.options().autotune.enabled is False
