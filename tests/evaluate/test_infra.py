# SPDX-License-Identifier: Apache-2.0
"""The infrastructure gate on a real export: as it is, damaged, and one that does not compute what was trained."""

import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from components import features
from components.evaluate import infra
from components.evaluate.limits import InfraLimits
from components.findings import GateResult
from components.train import export, models
from components.train.data import TransformGraph
from components.train.hyperparameters import Hyperparameters
from tests.train.conftest import Inputs, make_inputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (70, *features.IMAGE_SHAPE), np.uint8)
    split = (images, np.arange(70) % 10)
    return make_inputs(tmp_path_factory.mktemp("inputs"), dict.fromkeys(features.SPLITS, split))


@pytest.fixture(scope="module")
def exported(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A Model artifact's folder with an untrained network."""
    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(1)
    network = models.build(Hyperparameters.of("mlp"))
    export.export(network, TransformGraph(inputs.artifacts["transform_graph"].uri), str(folder / "Format-Serving"))
    (folder / "keras").mkdir()
    network.save(folder / "keras" / "model.keras")
    return folder


def check(model: pathlib.Path, inputs: Inputs, limits: InfraLimits | None = None) -> dict[str, GateResult]:
    split = f"{inputs.artifacts['examples'].uri}/Split-test"
    results = infra.check(model, inputs.artifacts["transform_graph"].uri, split, limits or InfraLimits())
    return {result.name: result for result in results}


def test_a_sound_export_passes_with_figures(exported: pathlib.Path, inputs: Inputs) -> None:
    results = check(exported, inputs)
    assert sorted(results) == ["infra-latency", "infra-predictions", "training-serving-skew"]
    assert all(result.passed for result in results.values()), results
    assert "64 golden requests through each of 3 signatures" in results["infra-predictions"].reason
    assert results["infra-latency"].measured is not None
    assert results["infra-latency"].measured > 0


def test_a_latency_beyond_the_budget_closes(exported: pathlib.Path, inputs: Inputs) -> None:
    result = check(exported, inputs, InfraLimits(latency_ms=1e-6))["infra-latency"]
    assert not result.passed
    assert "exceeded by" in result.reason


def test_damaged_weights_are_one_sentence_and_nothing_else_is_tried(
    exported: pathlib.Path, inputs: Inputs, tmp_path: pathlib.Path
) -> None:
    damaged = tmp_path / "model"
    shutil.copytree(exported, damaged)
    weights = damaged / "Format-Serving" / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[:100])
    results = check(damaged, inputs)
    assert list(results) == ["infra-predictions"]
    assert not results["infra-predictions"].passed
    assert results["infra-predictions"].reason.startswith(
        "the exported model must load and run in a fresh process, but: "
    )
    assert "\n" not in results["infra-predictions"].reason


def test_nan_weights_close(exported: pathlib.Path, inputs: Inputs, tmp_path: pathlib.Path) -> None:
    network = keras.saving.load_model(exported / "keras" / "model.keras")
    network.set_weights([np.full_like(weight, np.nan) for weight in network.get_weights()])
    export.export(network, TransformGraph(inputs.artifacts["transform_graph"].uri), str(tmp_path / "Format-Serving"))
    result = check(tmp_path, inputs)["infra-predictions"]
    assert not result.passed
    assert "finite" in result.reason


def test_an_export_without_the_division_by_255_is_training_serving_skew(
    exported: pathlib.Path, inputs: Inputs, tmp_path: pathlib.Path
) -> None:
    class Undivided(TransformGraph):
        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            return super().__call__(image) * 255.0

    network = keras.saving.load_model(exported / "keras" / "model.keras")
    transform = Undivided(inputs.artifacts["transform_graph"].uri)
    export.export(network, transform, str(tmp_path / "Format-Serving"))
    shutil.copytree(exported / "keras", tmp_path / "keras")
    result = check(tmp_path, inputs)["training-serving-skew"]
    assert not result.passed
    assert result.measured is not None
    assert result.measured > 0.01
