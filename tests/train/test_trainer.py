# SPDX-License-Identifier: Apache-2.0
"""The trainer from files to files, through the stock executor and without it."""

from __future__ import annotations

import json
import logging
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components import features
from components.errors import GateStopped
from components.train import trainer
from components.train.component import train
from components.train.hyperparameters import MODELS, Hyperparameters
from tests.train import conftest


def saved_network(folder):
    return keras.saving.load_model(folder / "model" / "keras" / "model.keras")


def test_it_learns_from_train_and_never_reads_test(inputs, trained):
    network = keras.saving.load_model(pathlib.Path(trained["model"].uri) / "keras" / "model.keras")
    images, labels = inputs.splits[features.VAL]
    predicted = network.predict(images[..., None] / np.float32(255), verbose=0).argmax(axis=1)
    assert (predicted == labels).mean() > 0.85


def test_training_json_tells_the_course(trained):
    told = json.loads((pathlib.Path(trained["model_run"].uri) / "training.json").read_text())
    assert told["devices"]
    assert told["steps"] == 60
    assert told["parameters"] == 302_590
    assert told["seconds"] > 0
    # 10 batches of 32 show all 300 images.
    assert [(row["epoch"], row["steps"]) for row in told["epochs"]] == [(n, 10 * n) for n in range(1, 7)]
    assert told["epochs"][-1]["loss"] < told["epochs"][0]["loss"]
    assert told["epochs"][-1]["val_accuracy"] > 0.85
    rates = [row["learning_rate"] for row in told["epochs"]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_a_few_steps_of_each_model(inputs, model, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "progress"):
        trainer.run_fn(inputs.fn_args(tmp_path, Hyperparameters.of(model, train_steps=3, batch_size=32)))
    told = json.loads((tmp_path / "model_run" / "training.json").read_text())
    assert told["steps"] == 3
    assert len(told["epochs"]) == 1
    assert (tmp_path / "model" / "Format-Serving" / "saved_model.pb").is_file()
    assert any(message.startswith("epoch 1/1, step 3/3: loss ") for message in caplog.messages)


def test_a_small_set_has_few_epochs(inputs, tmp_path):
    trainer.run_fn(inputs.fn_args(tmp_path, Hyperparameters.of("linear", train_steps=450, batch_size=32)))
    told = json.loads((tmp_path / "model_run" / "training.json").read_text())
    # 45 passes of 10 batches, three of them to an epoch.
    assert [row["steps"] for row in told["epochs"]] == list(range(30, 451, 30))


def test_the_last_epoch_may_be_short(inputs, tmp_path):
    trainer.run_fn(inputs.fn_args(tmp_path, Hyperparameters.of("linear", train_steps=13, batch_size=32)))
    told = json.loads((tmp_path / "model_run" / "training.json").read_text())
    assert [row["steps"] for row in told["epochs"]] == [10, 13]


@pytest.mark.parametrize("model", ["cnn", "keras_cnn", "best"])
def test_a_seed_gives_its_weights_byte_for_byte(inputs, model, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        chosen = Hyperparameters.of(model, train_steps=12, batch_size=32, seed=seed)
        trainer.run_fn(inputs.fn_args(tmp_path / name, chosen))
    a, b, c = ([weights.tobytes() for weights in saved_network(tmp_path / name).get_weights()] for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("model", "rate", "message"),
    [
        ("linear", 1e37, r"its loss must be a finite number, but was (nan|inf) at step \d+ of 50; lower"),
        # Here relu hides it from the loss at first.
        ("cnn", 1e30, r"the norm of its gradient must stay below 1e\+06, but was (nan|inf) at step \d of 50; lower"),
    ],
)
def test_a_training_that_diverges_stops_with_a_sentence(inputs, tmp_path, model, rate, message):
    diverging = Hyperparameters.of(model, train_steps=50, batch_size=32, learning_rate=rate)
    with pytest.raises(GateStopped, match=message):
        trainer.run_fn(inputs.fn_args(tmp_path, diverging))
    assert not (tmp_path / "model").exists()


def test_other_images_need_features_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "IMAGE_SHAPE", (32, 32))
    monkeypatch.setattr(features, "CLASSES", ("a", "b", "c", "d"))
    generator = np.random.default_rng(1)
    labels = np.arange(64) % 4
    images = (generator.integers(0, 60, (64, 32, 32)) + 60 * labels[:, None, None]).astype(np.uint8)
    made = conftest.make_inputs(tmp_path, {features.TRAIN: (images, labels), features.VAL: (images, labels)})
    trainer.run_fn(made.fn_args(tmp_path / "out", Hyperparameters.of("cnn", train_steps=2, batch_size=16)))
    signature = tf.saved_model.load(str(tmp_path / "out/model/Format-Serving")).signatures[features.SIGNATURE_BYTES]
    png = tf.io.encode_png(images[0][..., None])
    assert signature(image_bytes=png[None])[features.PROBABILITIES_OUTPUT].shape == (1, 4)


def test_what_is_trained_and_with_what_code_is_in_the_cache_key():
    def properties(digest, **overrides):
        return train(
            examples=Channel(type=standard_artifacts.Examples),
            transform_graph=Channel(type=standard_artifacts.TransformGraph),
            schema=Channel(type=standard_artifacts.Schema),
            hyperparameters=Hyperparameters.of("cnn", **overrides).to_config(),
            code_digest=digest,
        ).spec.exec_properties

    assert properties("a") == properties("a")
    assert properties("a") != properties("b")
    assert properties("a") != properties("a", seed=9)
