# SPDX-License-Identifier: Apache-2.0
"""Which epoch's weights are exported, and when a training stops early."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import features
from components.train import trainer
from components.train.callbacks import BestWeights, EpochValidation, copy_weights
from components.train.data import InMemoryDataset
from components.train.hyperparameters import Hyperparameters


def network():
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    made.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    return made


@pytest.mark.parametrize(
    ("accuracies", "patience", "best", "ends_after"),
    [
        ([0.5, 0.9, 0.7], 0, 2, 3),
        ([0.5, 0.9, 0.88, 0.8], 0, 3, 4),  # of 100 images, one standard error of 90 % is 3 points
        ([0.5, 0.9, 0.86], 0, 2, 3),
        ([0.5, 1.0, 0.99, 0.98], 0, 3, 4),  # all of few images right is luck too
        ([0.88, 0.9, 0.93, 0.905, 0.9], 0, 4, 5),
        ([0.5, 0.9, 0.9], 0, 3, 3),  # of equal ones the later
        ([0.5, 0.9, 0.9, 0.8, 0.7, 0.99], 2, 3, 4),  # an equal one is no better one
        ([0.5, 0.6, 0.7, 0.8], 1, 4, 4),
        ([0.5, 0.4], 1, 1, 2),
        ([0.5, 0.4, 0.6, 0.5, 0.4], 2, 3, 5),
    ],
    ids=str,
)
def test_the_best_epoch_is_kept_and_patience_ends(accuracies, patience, best, ends_after):
    exported, rows = network(), list[dict[str, float]]()
    watch = BestWeights(exported, rows, 100, patience)
    trained = network()
    trained.stop_training = False
    watch.set_model(trained)
    done = 0
    for epoch, accuracy in enumerate(accuracies):
        exported.set_weights([np.full_like(weight, epoch + 1) for weight in exported.get_weights()])
        rows.append({"epoch": epoch + 1, "val_accuracy": accuracy})
        watch.on_epoch_end(epoch)
        done += 1
        if trained.stop_training:
            break
    assert (watch.epoch, done) == (best, ends_after)
    assert {float(value) for weight in watch.weights for value in weight.ravel()} == {float(best)}


def test_val_is_measured_as_keras_measures_it():
    images = np.random.default_rng(2).random((1203, 2, 2, 1), np.float32)
    labels = (images.sum(axis=(1, 2, 3)) * 0.7).astype(np.int64)
    trained = network()
    trained.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    watch, logs = EpochValidation(network(), InMemoryDataset(images, labels)), dict[str, float]()
    watch.set_model(trained)
    watch.on_epoch_end(0, logs)
    loss, accuracy = trained.evaluate(images, labels, verbose=0)
    assert logs["val_accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert logs["val_loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(watch.probabilities, trained.predict(images, verbose=0), atol=1e-6)


def test_averaged_weights_are_those_that_count():
    made = network()
    made.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5), "sparse_categorical_crossentropy")
    images, labels = np.ones((4, 2, 2, 1), np.float32), np.array([0, 1, 2, 2])
    seen = []
    for _ in range(2):
        made.train_on_batch(images, labels)
        seen.append(made.get_weights())
    exported = network()
    copy_weights(made, exported)
    for first, second, average in zip(*seen, exported.get_weights(), strict=True):
        np.testing.assert_allclose(average, (first + second) / 2, rtol=1e-6)
        assert not np.array_equal(average, second)


def test_the_exported_network_is_that_of_the_best_epoch(inputs, tmp_path, monkeypatch):
    measure, seen = EpochValidation.on_epoch_end, []

    def second_is_best(self, epoch, logs=None):
        measure(self, epoch, logs)
        seen.append(self._exported.get_weights())
        logs["val_accuracy"] = 0.9 if epoch == 1 else 0.1

    monkeypatch.setattr(EpochValidation, "on_epoch_end", second_is_best)
    trainer.run_fn(inputs.fn_args(tmp_path, Hyperparameters.of("linear", train_steps=40, batch_size=32)))
    told = json.loads((tmp_path / "model_run" / "training.json").read_text())
    assert (len(told["epochs"]), told["best_epoch"], told["stopped_early"]) == (4, 2, False)
    exported = keras.saving.load_model(tmp_path / "model" / "keras" / "model.keras")
    images, _ = inputs.splits[features.VAL]
    model = tf.saved_model.load(str(tmp_path / "model" / "Format-Serving"))
    served = model.signatures[features.SIGNATURE_PIXELS](pixels=tf.constant(images))[features.PROBABILITIES_OUTPUT]
    for mine, second, last in zip(exported.get_weights(), seen[1], seen[3], strict=True):
        np.testing.assert_array_equal(mine, second)
        assert not np.array_equal(mine, last)
    answers = exported.predict(images[..., None] / np.float32(255), verbose=0)
    np.testing.assert_allclose(served.numpy(), answers, atol=1e-5)


def test_a_training_that_brings_nothing_stops_early(inputs, tmp_path, caplog):
    hopeless = Hyperparameters.of("linear", train_steps=50, batch_size=32, learning_rate=1e-9, patience=2)
    trainer.run_fn(inputs.fn_args(tmp_path, hopeless))
    told = json.loads((tmp_path / "model_run" / "training.json").read_text())
    assert (told["steps"], len(told["epochs"]), told["best_epoch"], told["stopped_early"]) == (30, 3, 3, True)
