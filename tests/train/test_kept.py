# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import array_store
from components.train import data, trainer
from components.train.hyperparameters import Hyperparameters
from tests import memory

IMAGES = np.random.default_rng(1).random((50, 4, 3, 1), np.float32)
LABELS = np.arange(50) % 10
# Keeps images of 200 MB, and says by how much the process has grown at its peak.
KEEPS = """
import numpy as np
from components.train import data
data.MEMORY_BYTES = 0
block = lambda number: (np.full((1000, 50, 50, 1), number, np.float32), np.full(1000, number % 10))
list(data.batches(data.store_images([block(0)], lambda: 1000), 100, 1).take(3))
before = peak()
images = data.store_images(map(block, range(20)), lambda: 20000)
for batch, _ in data.batches(images, 100, 1).take(300):
    pass
print(type(images.images).__name__, peak() - before)
"""


@pytest.mark.parametrize("limit", [10**9, 0], ids=["memory", "disk"])
def test_a_graph_gets_images_and_labels_with_their_shapes(limit, monkeypatch):
    monkeypatch.setattr(data, "MEMORY_BYTES", limit)
    blocks = ((IMAGES[start : start + 16], LABELS[start : start + 16]) for start in range(0, 50, 16))
    images = data.store_images(blocks, lambda: 50)
    assert isinstance(images.images, np.ndarray if limit else array_store.DiskArray)
    assert len(images) == 50
    dataset = tf.data.Dataset.from_tensor_slices([[3, 4], [48, 0]]).map(images.gather)
    assert [tuple(spec.shape) for spec in dataset.element_spec] == [(2, 4, 3, 1), (2,)]
    (_, (second, labels)) = list(dataset.as_numpy_iterator())
    np.testing.assert_array_equal(second, IMAGES[[48, 0]])
    assert labels.tolist() == [8, 0]


def test_where_they_are_kept_makes_no_difference(inputs, monkeypatch, tmp_path):
    weights = []
    for limit in (10**9, 0):
        monkeypatch.setattr(data, "MEMORY_BYTES", limit)
        folder = tmp_path / str(limit)
        trainer.run_fn(inputs.fn_args(folder, Hyperparameters.of("cnn", train_steps=12, batch_size=32)))
        network = keras.saving.load_model(folder / "model" / "keras" / "model.keras")
        weights.append([one.tobytes() for one in network.get_weights()])
    assert weights[0] == weights[1]


def test_on_disk_the_process_does_not_grow_with_them():
    kind, grown = memory.said(KEEPS)
    assert kind == "OnDisk"
    assert float(grown) < 60  # MB, of 200
