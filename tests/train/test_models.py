# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import itertools
import pathlib

import keras
import numpy as np
import pytest

from components import features
from components.errors import BadInput
from components.train import hyperparameters, models, optimization
from components.train.hyperparameters import MODELS, Hyperparameters


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
    answer = np.asarray(network(np.random.default_rng(1).random((3, 28, 28, 1), np.float32)))
    assert answer.shape == (3, 10)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-6)
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
    assert [network.layers[place].rate for place in (5, 7)] == [0.25, 0.25]


def test_flags_reach_the_layers():
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


def test_best_trains_on_distorted_images_and_is_exported_without():
    network = models.build(Hyperparameters.of("best"))
    exported = models.for_inference(network)
    assert layer_types(network)[0] == "Distort"
    assert layer_types(exported) == layer_types(network)[1:]
    images = np.random.default_rng(1).random((3, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(np.asarray(exported(images)), np.asarray(network(images, training=False)))
    assert all(mine is its for mine, its in zip(exported.weights, network.weights, strict=True))


def test_what_is_exported_is_the_network_itself_where_nothing_is_left_out():
    network = models.build(Hyperparameters.of("keras_cnn"))
    assert models.for_inference(network) is network


@pytest.mark.parametrize("model", MODELS)
def test_other_images_need_features_alone(model, monkeypatch):
    monkeypatch.setattr(features, "IMAGE_SHAPE", (32, 32))
    monkeypatch.setattr(features, "CLASSES", ("a", "b", "c", "d"))
    assert models.build(Hyperparameters.of(model))(np.zeros((2, 32, 32, 1), np.float32)).shape == (2, 4)


@pytest.mark.parametrize("module", [models, optimization, hyperparameters], ids=lambda one: one.__name__)
def test_no_backend_is_imported(module):
    tree = ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.startswith(("tensorflow", "jax", "torch"))}


@pytest.mark.parametrize("model", MODELS)
def test_best_alone_learns_with_momentum(model):
    chosen = Hyperparameters.of(model)
    network = models.build(chosen)
    optimization.compile_network(network, chosen)
    if model != "best":
        assert type(network.optimizer) is keras.optimizers.Adam
        return
    assert type(network.optimizer) is keras.optimizers.SGD
    told = network.optimizer.get_config()
    assert (told["momentum"], told["nesterov"], told["weight_decay"]) == (0.9, True, 5e-4)


# Each model with its own kernels, and with the smallest and a large one.
SIDES = [
    *((model, {}, side) for model, side in zip(MODELS, (1, 1, 1, 4, 6, 1, 20, 24), strict=True)),
    ("cnn", {"ksize1": 1, "ksize2": 1}, 4),
    ("keras_cnn", {"ksize1": 1, "ksize2": 1}, 2),
    ("keras_cnn", {"ksize1": 17, "ksize2": 2}, 19),
    ("keras_cnn", {"ksize1": 1, "ksize2": 27}, 28),
]


@pytest.mark.parametrize(("model", "kernels", "side"), SIDES, ids=str)
def test_each_model_takes_images_from_a_size_that_is_known_before_it_is_built(monkeypatch, model, kernels, side):
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
def test_images_that_are_smaller_are_refused_in_one_line(monkeypatch, model, kernels, side):
    for shape in ((side - 1, side), (side, side - 1)):
        monkeypatch.setattr(features, "IMAGE_SHAPE", shape)
        chosen = MODELS[model].model_copy(update=kernels)
        with pytest.raises(ValueError):  # noqa: PT011 - the rule is as narrow as Keras is
            models.build(chosen)
        with pytest.raises(BadInput) as refused:
            Hyperparameters.of(**chosen.to_config())
        assert "\n" not in str(refused.value)
        assert f"takes images of {side}x{side} pixels or more" in str(refused.value)
        assert f"is {shape[0]}x{shape[1]}; take" in str(refused.value)
