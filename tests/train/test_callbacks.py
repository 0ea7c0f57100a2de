# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import keras
import numpy as np
import pytest

from components.errors import GateStopped
from components.train.callbacks import BestWeights, DivergenceWatch, EpochValidation, copy_weights
from components.train.data import InMemoryDataset
from components.train.distribution import GRADIENT_NORM


def build_network():
    keras.utils.set_random_seed(1)
    network = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")])
    network.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


@pytest.mark.parametrize(
    ("accuracies", "patience", "best", "epochs"),
    [
        ([0.5, 0.9, 0.7], 0, 2, 3),
        ([0.5, 0.9, 0.88, 0.8], 0, 3, 4),  # one standard error of 90 % of 100 images is 3 points
        ([0.5, 0.9, 0.86], 0, 2, 3),
        ([0.5, 1.0, 0.99, 0.98], 0, 3, 4),  # 100 % has a standard error too
        ([0.88, 0.9, 0.93, 0.905, 0.9], 0, 4, 5),
        ([0.5, 0.9, 0.9], 0, 3, 3),  # the later of equals
        ([0.5, 0.9, 0.9, 0.8, 0.7, 0.99], 2, 3, 4),  # an equal accuracy is no improvement
        ([0.5, 0.6, 0.7, 0.8], 1, 4, 4),
        ([0.5, 0.4], 1, 1, 2),
        ([0.5, 0.4, 0.6, 0.5, 0.4], 2, 3, 5),
    ],
    ids=str,
)
def test_the_best_epoch_is_saved_and_patience_stops_the_training(accuracies, patience, best, epochs):
    network, inference_network, rows = build_network(), build_network(), list[dict[str, float]]()
    callback = BestWeights(inference_network, rows, 100, patience)
    network.stop_training = False
    callback.set_model(network)
    for epoch, accuracy in enumerate(accuracies):
        inference_network.set_weights([np.full_like(weight, epoch + 1) for weight in inference_network.get_weights()])
        rows.append({"epoch": epoch + 1, "val_accuracy": accuracy})
        callback.on_epoch_end(epoch)
        if network.stop_training:
            break
    assert (callback.epoch, len(rows)) == (best, epochs)
    assert {float(value) for weight in callback.weights for value in weight.ravel()} == {float(best)}


def test_validation_gives_the_metrics_of_keras():
    images = np.random.default_rng(2).random((1203, 2, 2, 1), np.float32)
    labels = (images.sum(axis=(1, 2, 3)) * 0.7).astype(np.int64)
    network = build_network()
    callback, logs = EpochValidation(build_network(), InMemoryDataset(images, labels)), dict[str, float]()
    callback.set_model(network)
    callback.on_epoch_end(0, logs)
    loss, accuracy = network.evaluate(images, labels, verbose=0)
    assert logs["val_accuracy"] == pytest.approx(accuracy, abs=1e-7)
    assert logs["val_loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(callback.probabilities, network.predict(images, verbose=0), atol=1e-6)


def test_moving_averages_are_copied_in_place_of_weights():
    network = build_network()
    network.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5), "sparse_categorical_crossentropy")
    images, labels = np.ones((4, 2, 2, 1), np.float32), np.array([0, 1, 2, 2])
    weights = []
    for _ in range(2):
        network.train_on_batch(images, labels)
        weights.append(network.get_weights())
    inference_network = build_network()
    copy_weights(network, inference_network)
    for first, second, average in zip(*weights, inference_network.get_weights(), strict=True):
        np.testing.assert_allclose(average, (first + second) / 2, rtol=1e-6)
        assert not np.array_equal(average, second)


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ({"loss": np.inf, GRADIENT_NORM: 1.0}, "its loss must be a finite number, but was inf at step 8 of 20"),
        ({"loss": np.nan, GRADIENT_NORM: 1.0}, "its loss must be a finite number, but was nan at step 8 of 20"),
        ({"loss": 1.0, GRADIENT_NORM: np.nan}, r"gradient must stay below 1e\+06, but was nan at step 8 of 20; lower"),
        ({"loss": 1.0, GRADIENT_NORM: 2.5e6}, r"gradient must stay below 1e\+06, but was 2.5e\+06 at step 8 of 20"),
    ],
    ids=["loss inf", "loss nan", "gradient nan", "gradient large"],
)
def test_divergence_stops_the_training_at_its_step(logs, message):
    watch = DivergenceWatch(6, 20, 0.5)
    watch.on_train_batch_end(0, {"loss": 2.3, GRADIENT_NORM: 99.0})
    with pytest.raises(GateStopped, match=message):
        watch.on_train_batch_end(1, logs)


def test_weights_that_are_not_finite_stop_the_training_after_the_epoch():
    watch, network = DivergenceWatch(0, 20, 0.5), build_network()
    watch.set_model(network)
    watch.on_epoch_end(0)
    kernel, bias = network.get_weights()
    bias[2] = np.nan
    network.set_weights([kernel, bias])
    message = r"all weights must be finite numbers, but \S+/bias has NaN or infinite values at step 0 of 20"
    with pytest.raises(GateStopped, match=message):
        watch.on_epoch_end(1)
