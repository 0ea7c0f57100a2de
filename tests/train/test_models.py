# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import itertools
import json
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

from components import features
from components.errors import BadInput
from components.train import hyperparameters, models
from components.train.hyperparameters import MODELS, Hyperparameters
from components.train.models import Distort
from tests import jax_backend


def dense(*units):
    return sum(before * after + after for before, after in itertools.pairwise(units))


PARAMETERS = {
    "linear": dense(784, 10),
    "dnn": dense(784, 300, 100, 30, 10),
    "dnn_dropout": dense(784, 300, 100, 30, 10),
    "cnn": (5 * 5 * 1 + 1) * 10 + (5 * 5 * 10 + 1) * 20 + dense(7 * 7 * 20, 300, 10),
    "keras_cnn": (3 * 3 * 1 + 1) * 32 + (3 * 3 * 32 + 1) * 32 + dense(12 * 12 * 32, 128, 10),
    "mlp": dense(784, 256, 128, 10),
    # A kernel, and four values for each filter in batch norm, of which two are averages and not trained.
    "fast": 5 * 5 * 16 + 3 * 3 * (16 * 48 + 48 * 64) + 4 * (16 + 48 + 64) + dense(3 * 3 * 64, 10),
    "best": 5 * 5 * 32 + 3 * 3 * (32 * 64 + 64 * 96 + 96 * 128) + 4 * (32 + 64 + 96 + 128) + dense(2 * 2 * 128, 10),
}


def layer_types(network):
    return [type(layer).__name__ for layer in network.layers]


@pytest.mark.parametrize("model", MODELS)
def test_probabilities_and_parameters(model):
    network = models.build(Hyperparameters.of(model))
    probabilities = np.asarray(network(np.random.default_rng(1).random((3, 28, 28, 1), np.float32)))
    assert probabilities.shape == (3, 10)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert network.count_params() == PARAMETERS[model]


def test_parameters_of_softmax_regression():
    assert PARAMETERS["linear"] == 7850


def test_cnn_flattens_7x7x20():
    network = models.build(Hyperparameters.of("cnn"))
    assert layer_types(network) == [
        "Conv2D",
        "MaxPooling2D",
        "Conv2D",
        "MaxPooling2D",
        "Flatten",
        "Dropout",
        "Dense",
        "Dropout",
        "Dense",
    ]
    assert network.layers[3].output.shape == (None, 7, 7, 20)
    assert network.layers[4].output.shape == (None, 980)
    assert network.layers[6].units == 300
    assert [network.layers[index].rate for index in (5, 7)] == [0.25, 0.25]


def test_hyperparameters_set_the_layers():
    changed = Hyperparameters.of("cnn", ksize1=3, ksize2=7, nfil1=4, nfil2=6, dropout=0.4)
    first, _, second, _, _, before, _, dropout, _ = models.build(changed).layers
    assert (first.kernel_size, first.filters) == ((3, 3), 4)
    assert (second.kernel_size, second.filters) == ((7, 7), 6)
    assert before.rate == dropout.rate == 0.4


def test_keras_cnn_drops_twice():
    network = models.build(Hyperparameters.of("keras_cnn"))
    assert layer_types(network) == [
        "Conv2D",
        "Conv2D",
        "MaxPooling2D",
        "Dropout",
        "Flatten",
        "Dense",
        "Dropout",
        "Dense",
    ]
    assert [layer.rate for layer in network.layers if hasattr(layer, "rate")] == [0.25, 0.5]


def test_dnn_dropout_drops_after_the_last_hidden_layer():
    assert layer_types(models.build(Hyperparameters.of("dnn_dropout"))) == [
        "Flatten",
        *["Dense"] * 3,
        "Dropout",
        "Dense",
    ]
    assert models.build(Hyperparameters.of("dnn_dropout")).layers[4].rate == 0.1


def test_the_inference_network_of_best_does_not_distort():
    network = models.build(Hyperparameters.of("best"))
    inference_network = models.for_inference(network)
    assert layer_types(network)[0] == "Distort"
    assert layer_types(inference_network) == layer_types(network)[1:]
    images = np.random.default_rng(1).random((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(np.asarray(inference_network(images)), np.asarray(network(images, training=False)))
    assert all(a is b for a, b in zip(inference_network.weights, network.weights, strict=True))


def test_a_network_without_training_layers_is_its_own_inference_network():
    network = models.build(Hyperparameters.of("keras_cnn"))
    assert models.for_inference(network) is network


@pytest.mark.parametrize("model", MODELS)
def test_other_images_need_features_alone(model, monkeypatch):
    monkeypatch.setattr(features, "IMAGE_SHAPE", (32, 32))
    monkeypatch.setattr(features, "CLASSES", ("a", "b", "c", "d"))
    assert models.build(Hyperparameters.of(model))(np.zeros((2, 32, 32, 1), np.float32)).shape == (2, 4)


@pytest.mark.parametrize("module", [models, hyperparameters], ids=lambda module: module.__name__)
def test_no_backend_is_imported(module):
    tree = ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.startswith(("tensorflow", "jax", "torch"))}


@pytest.mark.parametrize("model", MODELS)
def test_only_best_uses_momentum(model):
    chosen = Hyperparameters.of(model)
    network = models.build(chosen)
    models.compile_network(network, chosen)
    if model != "best":
        assert type(network.optimizer) is keras.optimizers.Adam
        return
    assert type(network.optimizer) is keras.optimizers.SGD
    config = network.optimizer.get_config()
    assert (config["momentum"], config["nesterov"], config["weight_decay"]) == (0.9, True, 5e-4)


# The smallest image of each model: with its own kernels, with the smallest and with large ones.
SIDES = [
    *((model, {}, side) for model, side in zip(MODELS, (1, 1, 1, 4, 6, 1, 20, 24), strict=True)),
    ("cnn", {"ksize1": 1, "ksize2": 1}, 4),
    ("keras_cnn", {"ksize1": 1, "ksize2": 1}, 2),
    ("keras_cnn", {"ksize1": 17, "ksize2": 2}, 19),
    ("keras_cnn", {"ksize1": 1, "ksize2": 27}, 28),
]


@pytest.mark.parametrize(("model", "kernels", "side"), SIDES, ids=str)
def test_each_model_accepts_images_of_its_smallest_side(monkeypatch, model, kernels, side):
    chosen = MODELS[model].model_copy(update=kernels)
    assert hyperparameters.smallest_side(chosen) == side
    for shape in ((side, side), (side, 2 * side + 1), (2 * side + 1, side)):
        monkeypatch.setattr(features, "IMAGE_SHAPE", shape)
        assert Hyperparameters.of(**chosen.to_config()) == chosen
    network = models.build(chosen)
    images = np.random.default_rng(1).random((2, *shape, 1), np.float32)
    assert np.isfinite(network(images, training=True)).all()
    assert models.for_inference(network)(images).shape == (2, 10)


@pytest.mark.parametrize(("model", "kernels", "side"), [case for case in SIDES if case[2] > 1], ids=str)
def test_smaller_images_are_refused_in_one_line(monkeypatch, model, kernels, side):
    for shape in ((side - 1, side), (side, side - 1)):
        monkeypatch.setattr(features, "IMAGE_SHAPE", shape)
        chosen = MODELS[model].model_copy(update=kernels)
        with pytest.raises(ValueError):  # noqa: PT011 - Keras has no narrower type
            models.build(chosen)
        with pytest.raises(BadInput) as error:
            Hyperparameters.of(**chosen.to_config())
        assert "\n" not in str(error.value)
        assert f"takes images of {side}x{side} pixels or more" in str(error.value)
        assert f"is {shape[0]}x{shape[1]}; take" in str(error.value)


STILL = {"rotation": 0, "zoom": 0, "shear": 0, "shift": 0, "bend": 0}


def draw_squares(count):
    """Images of a bright square a little right of and above the centre, float32 [count, 28, 28, 1]."""
    images = np.zeros((count, 28, 28, 1), np.float32)
    images[:, 8:16, 12:20] = 1
    return images


def centres(images):
    """Returns the rows and columns of the centres of mass."""
    rows, columns = np.mgrid[:28, :28]
    ink = images[..., 0]
    mass = ink.sum(axis=(1, 2))
    return (ink * rows).sum(axis=(1, 2)) / mass, (ink * columns).sum(axis=(1, 2)) / mass


def distort(images, **options):
    return np.asarray(Distort(**{**STILL, "seed": 1, **options})(images, training=True))


def test_distort_only_changes_training_images():
    images = np.random.default_rng(1).random((4, 28, 28, 1), np.float32)
    layer = Distort(rotation=90, zoom=0.5, shear=1, shift=10, bend=5)
    np.testing.assert_array_equal(np.asarray(layer(images, training=False)), images)
    np.testing.assert_array_equal(np.asarray(layer(images)), images)


def test_distort_without_distances_changes_nothing():
    images = np.random.default_rng(1).random((4, 28, 28, 1), np.float32)
    np.testing.assert_allclose(distort(images), images, atol=1e-5)


def test_shifts_differ_per_image_and_stay_in_range():
    rows, columns = centres(distort(draw_squares(500), shift=2))
    assert len({*rows.round(4)}) > 400
    for positions, centre in ((rows, 11.5), (columns, 15.5)):
        assert np.abs(positions - centre).max() <= 2.001
        assert (positions - centre).max() > 1.9
        assert (positions - centre).min() < -1.9


def test_rotation_is_around_the_centre():
    image = np.zeros((300, 28, 28, 1), np.float32)
    image[:, 4:6, 13:15] = 1  # 9 pixels above the centre
    rows, columns = centres(distort(image, rotation=30))
    np.testing.assert_allclose(np.hypot(rows - 13.5, columns - 13.5), 9, atol=0.1)
    angles = np.degrees(np.arctan2(columns - 13.5, 13.5 - rows))
    assert angles.max() == pytest.approx(30, abs=1.5)
    assert angles.min() == pytest.approx(-30, abs=1.5)


def test_zoom_changes_height_and_width_independently():
    ink = distort(draw_squares(500), zoom=0.2)[..., 0]
    assert ink.sum(axis=(1, 2)).min() / 64 == pytest.approx(1 / 1.2**2, abs=0.05)
    assert ink.sum(axis=(1, 2)).max() / 64 == pytest.approx(1 / 0.8**2, abs=0.1)
    heights, widths = (ink.max(axis=axis).sum(axis=1) for axis in (2, 1))
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.2


def test_shear_shifts_rows_by_their_distance_from_the_centre():
    image = np.zeros((300, 28, 28, 1), np.float32)
    image[:, 3:5, 13:15] = 1  # 10 pixels above the centre
    rows, columns = centres(distort(image, shear=0.3))
    np.testing.assert_allclose(rows, 3.5, atol=0.01)
    assert np.abs(columns - 13.5).max() == pytest.approx(3, abs=0.1)


def test_bending_is_smooth_and_has_its_standard_deviation():
    ramp = np.broadcast_to(np.arange(28, dtype=np.float32)[None, None, :, None], (400, 28, 28, 1))
    shifts = (distort(ramp, bend=0.5) - ramp)[:, :, 4:-4, 0]
    assert shifts.std(axis=0) == pytest.approx(0.5, abs=0.1)
    assert np.abs(np.diff(shifts, axis=2)).mean() < 0.2


@pytest.mark.parametrize("kind", STILL)
def test_distortions_depend_on_the_seed_and_differ_per_call(kind):
    options: Any = {**STILL, kind: 10 if kind == "rotation" else 0.5, "seed": 3}
    layer, copy = Distort(**options), Distort(**options)
    images = draw_squares(4)
    first, second = (np.asarray(layer(images, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, np.asarray(copy(images, training=True)))
    assert np.abs(first - second).max() > 0.1
    assert np.abs(first[0] - first[1]).max() > 0.1
    assert np.abs(distort(images, **options) - distort(images, **options | {"seed": 4})).max() > 0.1


def test_the_random_state_of_distort_is_a_variable():
    network = keras.Sequential([keras.Input((28, 28, 1)), Distort(**STILL | {"shift": 2})])
    (state,) = network.variables
    before = np.asarray(state)
    images = draw_squares(2)
    distorted = np.asarray(network(images, training=True))
    state.assign(before)
    np.testing.assert_array_equal(np.asarray(network(images, training=True)), distorted)


def test_distort_is_saved_and_loaded(tmp_path):
    layer = Distort(rotation=1, zoom=0.2, shear=0.3, shift=4, bend=0.5, seed=6)
    keras.Sequential([keras.Input((28, 28, 1)), layer]).save(tmp_path / "network.keras")
    (loaded,) = keras.saving.load_model(tmp_path / "network.keras").layers
    config = {name: loaded.get_config()[name] for name in (*STILL, "seed")}
    assert config == {"rotation": 1, "zoom": 0.2, "shear": 0.3, "shift": 4, "bend": 0.5, "seed": 6}


def test_distort_takes_images_that_are_not_square():
    images = np.random.default_rng(1).random((3, 20, 32, 1), np.float32)
    np.testing.assert_allclose(distort(images), images, atol=1e-5)
    assert distort(images, rotation=20, bend=1).shape == (3, 20, 32, 1)


def test_distort_computes_in_float32_under_any_policy():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        images = draw_squares(2)
        np.testing.assert_allclose(distort(images), images, atol=1e-6)
    finally:
        keras.config.set_dtype_policy(policy)


ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, BATCH_SIZE = 12, 32
# Models that draw random numbers in a step; each backend draws its own, so their training losses differ.
RANDOM_MODELS = {"dnn_dropout", "cnn", "keras_cnn", "fast", "best"}
# Prints the losses of each model on JAX, from the same weights and images.
PRINT_JAX_LOSSES = """
import json, sys
import keras, numpy as np
sys.path.insert(0, sys.argv[1])
from components.train import models
from components.train.hyperparameters import MODELS, Hyperparameters
steps, batch_size = map(int, sys.argv[3:5])
result = {"backend": keras.backend.backend(), "losses": {}}
for model in MODELS:
    arrays = np.load(f"{sys.argv[2]}/{model}.npz")
    images, labels = arrays["images"], arrays["labels"]
    hyperparameters = Hyperparameters.of(model, train_steps=steps, batch_size=batch_size)
    network = models.build(hyperparameters)
    models.compile_network(network, hyperparameters)
    network.set_weights([arrays[f"weight{index}"] for index in range(len(network.weights))])
    before = network.evaluate(images, labels, batch_size=batch_size, verbose=0)[0]
    history = network.fit(images, labels, batch_size=batch_size, shuffle=False, epochs=4, verbose=0).history
    after = network.evaluate(images, labels, batch_size=batch_size, verbose=0)[0]
    result["losses"][model] = [before, history["loss"], after]
result["tensorflow"] = "tensorflow" in sys.modules
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """For each backend and model: the loss before, the mean losses of four passes over the images, the loss after."""
    folder = tmp_path_factory.mktemp("jax")
    labels = np.arange(STEPS // 4 * BATCH_SIZE) % 10
    noise = np.random.default_rng(1).random((len(labels), 28, 28, 1), np.float32) / 2
    images = (noise + (labels / 20).reshape(-1, 1, 1, 1)).astype(np.float32)
    tensorflow_losses = {}
    for model in MODELS:
        keras.utils.set_random_seed(1)
        hyperparameters = Hyperparameters.of(model, train_steps=STEPS, batch_size=BATCH_SIZE)
        network = models.build(hyperparameters)
        models.compile_network(network, hyperparameters)
        weights = {f"weight{index}": weight for index, weight in enumerate(network.get_weights())}
        np.savez(folder / f"{model}.npz", images=images, labels=labels, **weights)
        before = network.evaluate(images, labels, batch_size=BATCH_SIZE, verbose=0)[0]
        history = network.fit(images, labels, batch_size=BATCH_SIZE, shuffle=False, epochs=4, verbose=0).history
        after = network.evaluate(images, labels, batch_size=BATCH_SIZE, verbose=0)[0]
        tensorflow_losses[model] = (before, history["loss"], after)
    completed = subprocess.run(
        [sys.executable, "-c", PRINT_JAX_LOSSES, str(ROOT), str(folder), str(STEPS), str(BATCH_SIZE)],
        env=jax_backend.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    result = json.loads(completed.stdout.splitlines()[-1])
    assert result["backend"] == "jax"
    assert not result["tensorflow"]
    return tensorflow_losses, result["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_jax_computes_the_same_losses(losses, model):
    (before, epochs, after), (jax_before, jax_epochs, jax_after) = (backend[model] for backend in losses)
    assert jax_before == pytest.approx(before, rel=1e-5)
    if model in RANDOM_MODELS:
        assert np.isfinite(jax_epochs).all()
        assert jax_epochs[-1] < jax_epochs[0]
    else:
        assert jax_epochs == pytest.approx(epochs, rel=1e-3)
        assert jax_after == pytest.approx(after, rel=1e-3)
