# SPDX-License-Identifier: Apache-2.0
"""What stops a training that diverges, and the gradient that it looks at."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.errors import GateStopped
from components.train.callbacks import DivergenceWatch
from components.train.optimization import GRADIENT_NORM, watch_gradients

IMAGES = np.random.default_rng(1).random((12, 3), np.float32)
LABELS = np.arange(12) % 4


def network():
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.2), keras.layers.Dense(4, "softmax")])
    made.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


def fit(made):
    course = made.fit(IMAGES, LABELS, batch_size=4, epochs=3, shuffle=False, verbose=0).history
    return course, [weight.tobytes() for weight in made.get_weights()]


def test_watching_the_gradient_changes_nothing_else():
    plain, watched = network(), network()
    watch_gradients(watched)
    (course, weights), (seen, same) = fit(plain), fit(watched)
    assert weights == same
    norms = seen.pop(GRADIENT_NORM)
    assert seen == course
    assert len(norms) == 3
    assert all(norm > 0 for norm in norms)


def test_the_norm_is_that_of_the_whole_gradient():
    made = network()
    made.layers[0].rate = 0.0
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(LABELS, made(IMAGES))
        loss = keras.ops.mean(losses)
    parts = tape.gradient(loss, [weight.value for weight in made.trainable_weights])
    expected = np.sqrt(sum((part.numpy() ** 2).sum() for part in parts))
    watch_gradients(made)
    seen = []
    made.fit(
        IMAGES, LABELS, batch_size=12, verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: seen.append(logs[GRADIENT_NORM]))],
    )  # fmt: skip
    assert seen == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ({"loss": np.inf, GRADIENT_NORM: 1.0}, "its loss must be a finite number, but was inf at step 8 of 20"),
        ({"loss": np.nan, GRADIENT_NORM: 1.0}, "its loss must be a finite number, but was nan at step 8 of 20"),
        ({"loss": 1.0, GRADIENT_NORM: np.nan}, r"gradient must stay below 1e\+06, but was nan at step 8 of 20; lower"),
        ({"loss": 1.0, GRADIENT_NORM: 2.5e6}, r"gradient must stay below 1e\+06, but was 2.5e\+06 at step 8 of 20"),
    ],
    ids=["inf", "nan", "gradient nan", "gradient"],
)
def test_a_step_that_diverges_is_found_at_once(logs, message):
    watch = DivergenceWatch(6, 20, 0.5)
    watch.on_train_batch_end(0, {"loss": 2.3, GRADIENT_NORM: 99.0})
    with pytest.raises(GateStopped, match=message):
        watch.on_train_batch_end(1, logs)


def test_weights_that_are_lost_are_found_after_the_epoch():
    watch, made = DivergenceWatch(0, 20, 0.5), network()
    watch.set_model(made)
    watch.on_epoch_end(0)
    kernel, bias = made.get_weights()
    bias[2] = np.nan
    made.set_weights([kernel, bias])
    with pytest.raises(
        GateStopped, match=r"all weights must be finite numbers, but \S+/bias held others at step 0 of 20"
    ):
        watch.on_epoch_end(1)
