# SPDX-License-Identifier: Apache-2.0
"""A small data set, and the outputs of real stages on it; each stage runs once per session."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import types
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from tfx.types import artifact, standard_artifacts
from tfx.types.channel import Channel

from components import features
from components.train import data
from components.train.component import train
from components.train.data import InMemoryDataset, TransformGraph
from components.train.hyperparameters import Hyperparameters
from components.transform.component import transform
from tests.transform import stages


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The trainer's input artifacts, and their images uint8 [n, height, width] and labels [n] by split."""

    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    artifacts: dict[str, artifact.Artifact]

    def fn_args(self, folder: pathlib.Path, hyperparameters: Hyperparameters) -> types.SimpleNamespace:
        """Returns the argument of `run_fn` that the Trainer's executor would build."""
        return types.SimpleNamespace(
            train_files=[f"{self.artifacts['examples'].uri}/Split-train/*"],
            eval_files=[f"{self.artifacts['examples'].uri}/Split-val/*"],
            transform_graph_path=self.artifacts["transform_graph"].uri,
            custom_config=hyperparameters.to_config(),
            serving_model_dir=str(folder / "model" / "Format-Serving"),
            model_run_dir=str(folder / "model_run"),
        )


def make_inputs(folder: pathlib.Path, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> Inputs:
    """Writes Examples and a schema, and runs the transform stage on them."""
    examples = stages.examples_artifact(folder / "examples", splits)
    schema = stages.schema_artifact(folder / "schema")
    component = transform(
        examples=Channel(type=standard_artifacts.Examples), schema=Channel(type=standard_artifacts.Schema)
    )
    outputs = stages.run(component, {"examples": examples, "schema": schema}, folder)
    return Inputs(splits, {"examples": examples, "schema": schema, "transform_graph": outputs["transform_graph"]})


def make_digits(folder: pathlib.Path) -> Inputs:
    """Writes handwritten digits, 28x28: 300 in train, 100 in val; the files of the test split are unreadable."""
    digits = load_digits()
    images = np.kron(digits.images[:400] * 15, np.ones((3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    result = make_inputs(
        folder,
        {
            features.TRAIN: (images[:300], digits.target[:300]),
            features.VAL: (images[300:], digits.target[300:400]),
            features.TEST: (images[:2], digits.target[:2]),
        },
    )
    for file in (folder / "examples" / "Split-test").iterdir():
        file.write_bytes(b"not a TFRecord")
    return result


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Inputs:
    return make_digits(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def splits(inputs) -> tuple[InMemoryDataset, InMemoryDataset]:
    """The splits train and val of `inputs`, transformed."""
    transform_graph = TransformGraph(inputs.artifacts["transform_graph"].uri)
    folder = inputs.artifacts["examples"].uri
    train_data, val_data = (data.load([f"{folder}/Split-{name}/*"], transform_graph, name) for name in ("train", "val"))
    return train_data, val_data


TRAINED = Hyperparameters.of("cnn", train_steps=60, batch_size=32)


@pytest.fixture(scope="session")
def trained(inputs, tmp_path_factory) -> dict[str, artifact.Artifact]:
    """The outputs of a real Trainer with `TRAINED`."""
    component = train(
        examples=Channel(type=standard_artifacts.Examples),
        transform_graph=Channel(type=standard_artifacts.TransformGraph),
        schema=Channel(type=standard_artifacts.Schema),
        hyperparameters=TRAINED.to_config(),
    )
    return stages.run(component, inputs.artifacts, tmp_path_factory.mktemp("trained"))


def read_training(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the content of training.json in the output folder of `Inputs.fn_args`."""
    result: dict[str, Any] = json.loads((folder / "model_run" / "training.json").read_text())
    return result


def read_network(folder: pathlib.Path) -> keras.Model:
    """Loads the Keras model in the output folder of `Inputs.fn_args`."""
    return keras.saving.load_model(folder / "model" / "keras" / "model.keras")


def weight_bytes(network: keras.Model) -> list[bytes]:
    """Returns the weights for an exact comparison."""
    return [weight.tobytes() for weight in network.get_weights()]
