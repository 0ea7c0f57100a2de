# SPDX-License-Identifier: Apache-2.0
"""Network, loss and optimizer run on JAX as they do on TensorFlow, in processes that import no TensorFlow."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from components.train import models, optimization
from components.train.hyperparameters import MODELS, Hyperparameters
from tests import jax_backend

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, BATCH = 12, 32
# What draws random numbers in a step: each backend has its own, so their training losses differ.
AT_RANDOM = {"dnn_dropout", "cnn", "keras_cnn", "fast", "best"}

ON_JAX = """
import json, sys
import keras, numpy as np
sys.path.insert(0, sys.argv[1])
from components.train import models, optimization
from components.train.hyperparameters import MODELS, Hyperparameters
steps, batch = map(int, sys.argv[3:5])
told = {"backend": keras.backend.backend(), "losses": {}}
for model in MODELS:
    given = np.load(f"{sys.argv[2]}/{model}.npz")
    chosen = Hyperparameters.of(model, train_steps=steps, batch_size=batch)
    network = models.build(chosen)
    optimization.compile_network(network, chosen)
    weights = [given[f"weight{number}"] for number in range(len(network.weights))]
    network.set_weights(weights)
    before = network.evaluate(given["images"], given["labels"], batch_size=batch, verbose=0)[0]
    course = network.fit(given["images"], given["labels"], batch_size=batch, shuffle=False, epochs=4, verbose=0)
    after = network.evaluate(given["images"], given["labels"], batch_size=batch, verbose=0)[0]
    told["losses"][model] = [before, course.history["loss"], after]
told["tensorflow"] = "tensorflow" in sys.modules
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """For each model: the loss before, the mean losses of four passes over the images, the loss after; by backend."""
    folder = tmp_path_factory.mktemp("jax")
    generator = np.random.default_rng(1)
    labels = np.arange(STEPS // 4 * BATCH) % 10
    images = generator.random((len(labels), 28, 28, 1), np.float32) / 2 + (labels / 20).reshape(-1, 1, 1, 1)
    images = images.astype(np.float32)
    losses = {}
    for model in MODELS:
        keras.utils.set_random_seed(1)
        chosen = Hyperparameters.of(model, train_steps=STEPS, batch_size=BATCH)
        network = models.build(chosen)
        optimization.compile_network(network, chosen)
        weights = {f"weight{number}": values for number, values in enumerate(network.get_weights())}
        np.savez(folder / f"{model}.npz", images=images, labels=labels, **weights)
        before = network.evaluate(images, labels, batch_size=BATCH, verbose=0)[0]
        course = network.fit(images, labels, batch_size=BATCH, shuffle=False, epochs=4, verbose=0)
        after = network.evaluate(images, labels, batch_size=BATCH, verbose=0)[0]
        losses[model] = (before, course.history["loss"], after)
    ran = subprocess.run(
        [sys.executable, "-c", ON_JAX, str(ROOT), str(folder), str(STEPS), str(BATCH)],
        env=jax_backend.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["backend"] == "jax"
    assert not told["tensorflow"]
    return losses, told["losses"]


@pytest.mark.parametrize("model", MODELS)
def test_the_first_loss_is_the_same(both, model):
    ours, jax = (losses[model] for losses in both)
    assert jax[0] == pytest.approx(ours[0], rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_steps_are_the_same(both, model):
    ours, jax = (losses[model] for losses in both)
    if model in AT_RANDOM:
        assert np.isfinite(jax[1]).all()
        assert jax[1][-1] < jax[1][0]
    else:
        assert jax[1] == pytest.approx(ours[1], rel=1e-3)
        assert jax[2] == pytest.approx(ours[2], rel=1e-3)
