# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from components import features
from components.errors import GateStopped
from components.train import data, trainer
from components.train.callbacks import EpochValidation
from components.train.devices import Compute
from components.train.hyperparameters import MODELS, Hyperparameters
from tests.train.conftest import make_inputs, read_network, read_training, weight_bytes


def train(splits, folder, model, precision=None, **overrides):
    """Trains on the CPU; returns the network and the result."""
    hyperparameters = Hyperparameters.of(model, **{"batch_size": 32, **overrides})
    compute = Compute.of("cpu", None, precision)
    train_data, val_data = splits
    return trainer.train(hyperparameters, compute, tf.distribute.get_strategy(), train_data, val_data, str(folder))


def test_the_network_classifies_val_and_the_training_never_reads_test(inputs, trained):
    network = keras.saving.load_model(pathlib.Path(trained["model"].uri) / "keras" / "model.keras")
    images, labels = inputs.splits[features.VAL]
    predictions = network.predict(images[..., None] / np.float32(255), verbose=0).argmax(axis=1)
    assert (predictions == labels).mean() > 0.85


def test_training_json(trained):
    training = json.loads((pathlib.Path(trained["model_run"].uri) / "training.json").read_text())
    assert training["devices"]
    assert training["steps"] == 60
    assert training["parameters"] == 302_590
    assert training["seconds"] > 0
    # 10 batches of 32 show all 300 images.
    assert [(row["epoch"], row["steps"]) for row in training["epochs"]] == [(n, 10 * n) for n in range(1, 7)]
    assert training["epochs"][-1]["loss"] < training["epochs"][0]["loss"]
    assert training["epochs"][-1]["val_accuracy"] > 0.85
    rates = [row["learning_rate"] for row in training["epochs"]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_a_few_steps_of_each_model(splits, model, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "progress"):
        network, result = train(splits, tmp_path, model, train_steps=3)
    assert (result.steps, len(result.epochs)) == (3, 1)
    assert network.name == model
    assert any(message.startswith("epoch 1/1, step 3/3: loss ") for message in caplog.messages)


def test_a_small_data_set_has_several_passes_per_epoch(splits, tmp_path):
    _, result = train(splits, tmp_path, "linear", train_steps=450)
    # 45 passes of 10 batches, three to an epoch.
    assert [row["steps"] for row in result.epochs] == list(range(30, 451, 30))


def test_the_last_epoch_may_be_short(splits, tmp_path):
    _, result = train(splits, tmp_path, "linear", train_steps=13)
    assert [row["steps"] for row in result.epochs] == [10, 13]


@pytest.mark.parametrize("model", ["cnn", "keras_cnn", "best"])
def test_weights_depend_on_the_seed_byte_for_byte(splits, model, tmp_path):
    first, second, reseeded = (
        weight_bytes(train(splits, tmp_path / str(index), model, train_steps=4, seed=seed)[0])
        for index, seed in enumerate((5, 5, 6))
    )
    assert first == second
    assert first != reseeded


def test_weights_do_not_depend_on_the_storage_of_the_images(splits, monkeypatch, tmp_path):
    images, labels = splits[0].images[np.arange(300)], splits[0].labels
    monkeypatch.setattr(data, "MEMORY_BYTES", 0)
    on_disk = data.store_images([(images, labels)], lambda: 300)
    assert not isinstance(on_disk.images, np.ndarray)
    memory_weights, disk_weights = (
        weight_bytes(train((train_data, splits[1]), tmp_path / str(index), "cnn", train_steps=4)[0])
        for index, train_data in enumerate((splits[0], on_disk))
    )
    assert memory_weights == disk_weights


@pytest.mark.parametrize(
    ("model", "rate", "message"),
    [
        ("linear", 1e37, r"its loss must be a finite number, but was (nan|inf) at step \d+ of 50; lower"),
        # relu hides the divergence from the loss at first.
        ("cnn", 1e30, r"the norm of its gradient must stay below 1e\+06, but was (nan|inf) at step \d of 50; lower"),
    ],
)
def test_a_diverging_training_exports_nothing(inputs, tmp_path, model, rate, message):
    diverging = Hyperparameters.of(model, train_steps=50, batch_size=32, learning_rate=rate)
    with pytest.raises(GateStopped, match=message):
        trainer.run_fn(inputs.fn_args(tmp_path, diverging))
    assert not (tmp_path / "model").exists()


def test_other_images_only_require_other_features(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "IMAGE_SHAPE", (32, 32))
    monkeypatch.setattr(features, "CLASSES", ("a", "b", "c", "d"))
    labels = np.arange(64) % 4
    noise = np.random.default_rng(1).integers(0, 60, (64, 32, 32))
    images = (noise + 60 * labels[:, None, None]).astype(np.uint8)
    inputs = make_inputs(tmp_path, {features.TRAIN: (images, labels), features.VAL: (images, labels)})
    trainer.run_fn(inputs.fn_args(tmp_path / "out", Hyperparameters.of("cnn", train_steps=2, batch_size=16)))
    signature = tf.saved_model.load(str(tmp_path / "out/model/Format-Serving")).signatures[features.SIGNATURE_BYTES]
    png = tf.io.encode_png(images[0][..., None])
    assert signature(image_bytes=png[None])[features.PROBABILITIES_OUTPUT].shape == (1, 4)


def test_the_weights_of_the_best_epoch_are_exported(inputs, tmp_path, monkeypatch):
    validate, epochs = EpochValidation.on_epoch_end, []

    def prefer_second(self, epoch, logs=None):
        validate(self, epoch, logs)
        epochs.append(self._inference_network.get_weights())
        logs["val_accuracy"] = 0.9 if epoch == 1 else 0.1

    monkeypatch.setattr(EpochValidation, "on_epoch_end", prefer_second)
    trainer.run_fn(inputs.fn_args(tmp_path, Hyperparameters.of("linear", train_steps=40, batch_size=32)))
    training = read_training(tmp_path)
    assert (len(training["epochs"]), training["best_epoch"], training["stopped_early"]) == (4, 2, False)
    network = read_network(tmp_path)
    for weight, second, last in zip(network.get_weights(), epochs[1], epochs[3], strict=True):
        np.testing.assert_array_equal(weight, second)
        assert not np.array_equal(weight, last)
    images, _ = inputs.splits[features.VAL]
    model = tf.saved_model.load(str(tmp_path / "model" / "Format-Serving"))
    outputs = model.signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(images))
    expected = network.predict(images[..., None] / np.float32(255), verbose=0)
    np.testing.assert_allclose(outputs[features.PROBABILITIES_OUTPUT].numpy(), expected, atol=1e-5)


def test_a_training_without_progress_stops_early(splits, tmp_path):
    _, result = train(splits, tmp_path, "linear", train_steps=50, learning_rate=1e-9, patience=2)
    assert (result.steps, len(result.epochs), result.best_epoch, result.stopped_early) == (30, 3, 3, True)


def test_bfloat16_gives_the_accuracy_of_float32(splits, tmp_path):
    accuracies, weights = {}, {}
    for precision in ("float32", "bfloat16"):
        network, result = train(splits, tmp_path / precision, "cnn", precision, train_steps=60)
        assert result.precision == precision
        accuracies[precision] = result.epochs[result.best_epoch - 1]["val_accuracy"]
        weights[precision] = network.get_weights()
    assert accuracies["float32"] > 0.85
    assert accuracies["bfloat16"] == pytest.approx(accuracies["float32"], abs=0.031)  # three of the 100 images
    assert not np.array_equal(weights["float32"][0], weights["bfloat16"][0])
    assert keras.config.dtype_policy().name == "float32"


def test_the_exported_model_computes_in_float32(inputs, tmp_path):
    fn_args = inputs.fn_args(tmp_path, Hyperparameters.of("cnn", train_steps=2, batch_size=32))
    fn_args.custom_config |= {"precision": "bfloat16"}
    trainer.run_fn(fn_args)
    assert read_training(tmp_path)["precision"] == "bfloat16"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((tmp_path / "model" / "Format-Serving" / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    library = graph.graph_def.library.function
    nodes = [*graph.graph_def.node, *(node for function in library for node in function.node_def)]
    assert len(nodes) > 100
    half = {types_pb2.DT_BFLOAT16, types_pb2.DT_HALF}
    assert [node.name for node in nodes if any(value.type in half for value in node.attr.values())] == []
    network = read_network(tmp_path)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    exported = tf.saved_model.load(str(tmp_path / "model" / "Format-Serving"))
    images, _ = inputs.splits[features.VAL]
    probabilities = exported.signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(
        network.predict(images[..., None] / np.float32(255), verbose=0), probabilities, atol=1e-5
    )
