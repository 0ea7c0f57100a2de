# SPDX-License-Identifier: Apache-2.0
"""The stage as the graph runs it, on real exports: a sound candidate, and four that must be refused."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components import features, findings
from components.evaluate import metrics
from components.evaluate.component import evaluate
from components.evaluate.limits import ModelLimits
from components.train import export, models
from components.train.data import TransformGraph
from components.train.hyperparameters import Hyperparameters
from tests.train.conftest import Inputs, make_inputs
from tests.transform import stages

pytestmark = pytest.mark.slow
LIMITS = ModelLimits(accuracy={"linear": 0.5}, change=0.02, best=0.015, recall=0.3, test_examples=100)


@dataclasses.dataclass(frozen=True)
class Stage:
    """The inputs of the stage, and a trained network."""

    inputs: Inputs
    network: keras.Model
    folder: pathlib.Path

    def model(self, name: str, weights: list[np.ndarray], version: int | None = None) -> standard_artifacts.Model:
        """Exports the network with other weights; a version makes it a baseline."""
        original = self.network.get_weights()
        self.network.set_weights(weights)
        folder = self.folder / name
        transform = TransformGraph(self.inputs.artifacts["transform_graph"].uri)
        export.export(self.network, transform, str(folder / "Format-Serving"))
        self.network.set_weights(original)
        artifact = standard_artifacts.Model()
        artifact.uri = str(folder)
        artifact.set_int_custom_property("resolved", int(version is not None))
        artifact.set_int_custom_property("version", version or 0)
        return artifact

    def evaluate(
        self, name: str, weights: list[np.ndarray], baseline: standard_artifacts.Model
    ) -> tuple[bool, set[str]]:
        """Runs the stage; returns whether the candidate is blessed, and the gates that closed."""
        model_channel = Channel(type=standard_artifacts.Model)
        component = evaluate(
            examples=Channel(type=standard_artifacts.Examples),
            model=model_channel,
            baseline=model_channel,
            best=model_channel,
            model_type="linear",
            limits=LIMITS,
        )
        artifacts = {
            "examples": self.inputs.artifacts["examples"],
            "model": self.model(name, weights),
            "baseline": baseline,
            "best": baseline,
        }
        outputs = stages.run(component, artifacts, self.folder / f"evaluated-{name}")
        _, results = findings.read(outputs["checks"].uri)
        closed = {result.name for result in results if not result.passed}
        marks = [path.name for path in pathlib.Path(outputs["blessing"].uri).iterdir()]
        assert marks == (["NOT_BLESSED"] if closed else ["BLESSED"])
        figures = json.loads((pathlib.Path(outputs["checks"].uri) / "metrics.json").read_text())
        assert ("baseline" in figures) == bool(baseline.get_int_custom_property("resolved"))
        return marks == ["BLESSED"], closed


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    digits = load_digits()
    images = np.pad(np.kron(digits.images * 15, np.ones((3, 3))).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    folder = tmp_path_factory.mktemp("house")
    train = (images[:300], digits.target[:300])
    test = (images[300:700], digits.target[300:700])
    inputs = make_inputs(folder / "inputs", {features.TRAIN: train, features.VAL: train, features.TEST: test})
    keras.utils.set_random_seed(1)
    network = models.build(Hyperparameters.of("linear"))
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(images[:1000, :, :, None] / 255.0, digits.target[:1000], epochs=25, verbose=0)
    return Stage(inputs, network, folder)


@pytest.fixture(scope="module")
def nothing(house: Stage) -> standard_artifacts.Model:
    artifact = standard_artifacts.Model()
    artifact.uri = str(house.folder / "nothing")
    artifact.set_int_custom_property("resolved", 0)
    return artifact


@pytest.fixture(scope="module")
def production(house: Stage) -> standard_artifacts.Model:
    return house.model("production", house.network.get_weights(), version=4)


def test_a_sound_candidate_is_blessed_with_and_without_a_baseline(
    house: Stage, nothing: standard_artifacts.Model, production: standard_artifacts.Model
) -> None:
    assert house.evaluate("first", house.network.get_weights(), nothing) == (True, set())
    assert house.evaluate("second", house.network.get_weights(), production) == (True, set())


def test_a_candidate_that_tfma_alone_refuses_is_refused(
    house: Stage, nothing: standard_artifacts.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "is_approved", lambda _: False)
    assert house.evaluate("disagreed", house.network.get_weights(), nothing) == (False, {"tfma-validation"})


def test_random_weights_are_refused(house: Stage, nothing: standard_artifacts.Model) -> None:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=weight.shape).astype(np.float32) for weight in house.network.get_weights()]
    blessed, closed = house.evaluate("random", weights, nothing)
    assert not blessed
    assert "accuracy-floor" in closed


def test_one_broken_class_is_refused_though_the_accuracy_is_above_its_floor(
    house: Stage, nothing: standard_artifacts.Model
) -> None:
    kernel, bias = house.network.get_weights()
    bias = bias.copy()
    bias[3] = -1e3
    blessed, closed = house.evaluate("broken", [kernel, bias], nothing)
    assert not blessed
    assert closed == {"recall-floor"}


def test_nan_weights_are_refused(house: Stage, nothing: standard_artifacts.Model) -> None:
    weights = [np.full_like(weight, np.nan) for weight in house.network.get_weights()]
    blessed, closed = house.evaluate("nan", weights, nothing)
    assert not blessed
    assert "finite" in closed


def test_worse_than_production_is_refused_though_above_every_floor(
    house: Stage, production: standard_artifacts.Model
) -> None:
    images, labels = house.inputs.splits[features.TEST]
    kernel, bias = house.network.get_weights()
    logits = (images.reshape(len(images), -1) / 255.0) @ kernel + bias
    lead = logits[:, 3] - np.delete(logits, 3, axis=1).max(axis=1)
    # As much less of class 3 as makes six in ten of its images something else: its recall stays above the floor.
    bias[3] -= np.quantile(lead[labels == 3], 0.6)
    blessed, closed = house.evaluate("worse", [kernel, bias], production)
    assert not blessed
    assert closed == {"change", "best"}
