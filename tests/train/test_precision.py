# SPDX-License-Identifier: Apache-2.0
"""Training in bfloat16 on a CPU that need not have it: slower there, but what comes out is what a GPU gives."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from components.train import devices, loop, trainer
from components.train.data import InMemoryDataset
from components.train.devices import Compute
from components.train.hyperparameters import Hyperparameters

# Of accuracies on 397 images: five of them.
_TOLERANCE = 0.0126


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    images = np.pad(np.kron(found.images / 16, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2))).astype(np.float32)[..., None]
    return InMemoryDataset(images[:1400], found.target[:1400]), InMemoryDataset(images[1400:], found.target[1400:])


def test_it_comes_to_the_same_accuracy(digits, tmp_path):
    told = Hyperparameters.of("cnn", train_steps=110, batch_size=64)
    accuracies, weights = {}, {}
    for precision in ("float32", "bfloat16"):
        compute = Compute.of("cpu", None, precision)
        folder = str(tmp_path / precision)
        network, training = loop.train(told, compute, devices.strategy(compute), digits[0], digits[1], folder)
        assert training.precision == precision
        accuracies[precision] = training.epochs[training.best_epoch - 1]["val_accuracy"]
        weights[precision] = network.get_weights()
    assert accuracies["float32"] > 0.9
    assert accuracies["bfloat16"] == pytest.approx(accuracies["float32"], abs=_TOLERANCE)
    # It did compute otherwise.
    assert not np.array_equal(weights["float32"][0], weights["bfloat16"][0])
    assert keras.config.dtype_policy().name == "float32"


def test_what_is_exported_computes_in_float32(inputs, tmp_path):
    made = inputs.fn_args(tmp_path, Hyperparameters.of("cnn", train_steps=12, batch_size=32))
    made.custom_config |= {"precision": "bfloat16"}
    trainer.run_fn(made)
    assert json.loads((tmp_path / "model_run" / "training.json").read_text())["precision"] == "bfloat16"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "model" / "Format-Serving" / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    nodes = [*graph.graph_def.node, *(node for one in graph.graph_def.library.function for node in one.node_def)]
    half = {types_pb2.DT_BFLOAT16, types_pb2.DT_HALF}
    assert len(nodes) > 100
    assert [node.name for node in nodes if any(value.type in half for value in node.attr.values())] == []
    network = keras.saving.load_model(tmp_path / "model" / "keras" / "model.keras")
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    exported = tf.saved_model.load(str(tmp_path / "model" / "Format-Serving"))
    images, _ = inputs.splits["val"]
    answers = exported.signatures["serving_pixels"](pixels=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(network.predict(images[..., None] / np.float32(255), verbose=0), answers, atol=1e-5)
