# SPDX-License-Identifier: Apache-2.0
"""A tiny data set and what real runs of the stages make of it, each run once for all tests here."""

from __future__ import annotations

import dataclasses
import pathlib
import types

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tfx.types import artifact, standard_artifacts
from tfx.types.channel import Channel

from components import features
from components.train.component import train
from components.train.hyperparameters import Hyperparameters
from components.transform.component import transform
from tests.transform import stages


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Artifacts that the trainer reads, and the images uint8 [n, height, width] and labels [n] in them, by split."""

    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    artifacts: dict[str, artifact.Artifact]

    def fn_args(self, folder: pathlib.Path, hyperparameters: Hyperparameters) -> types.SimpleNamespace:
        """What the Trainer's executor hands to `run_fn`, without the executor."""
        return types.SimpleNamespace(
            train_files=[f"{self.artifacts['examples'].uri}/Split-train/*"],
            eval_files=[f"{self.artifacts['examples'].uri}/Split-val/*"],
            transform_graph_path=self.artifacts["transform_graph"].uri,
            custom_config=hyperparameters.to_config(),
            serving_model_dir=str(folder / "model" / "Format-Serving"),
            model_run_dir=str(folder / "model_run"),
        )


def make_inputs(folder: pathlib.Path, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> Inputs:
    """Writes Examples and a schema, and runs Transform on them."""
    examples = stages.examples_artifact(folder / "examples", splits)
    schema = stages.schema_artifact(folder / "schema")
    component = transform(
        examples=Channel(type=standard_artifacts.Examples), schema=Channel(type=standard_artifacts.Schema)
    )
    outputs = stages.run(component, {"examples": examples, "schema": schema}, folder)
    return Inputs(splits, {"examples": examples, "schema": schema, "transform_graph": outputs["transform_graph"]})


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Inputs:
    """Real handwritten digits, 28x28: 300 in train, 100 in val, and a test split that cannot be read."""
    digits = load_digits()
    images = np.kron(digits.images[:400] * 15, np.ones((3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    folder = tmp_path_factory.mktemp("inputs")
    made = make_inputs(
        folder,
        {
            features.TRAIN: (images[:300], digits.target[:300]),
            features.VAL: (images[300:], digits.target[300:400]),
            features.TEST: (images[:2], digits.target[:2]),
        },
    )
    for file in (folder / "examples" / "Split-test").iterdir():
        file.write_bytes(b"nobody reads this")
    return made


@pytest.fixture(scope="session")
def trained(inputs, tmp_path_factory) -> dict[str, artifact.Artifact]:
    """The outputs of a real Trainer: `cnn`, 60 steps of 32."""
    component = train(
        examples=Channel(type=standard_artifacts.Examples),
        transform_graph=Channel(type=standard_artifacts.TransformGraph),
        schema=Channel(type=standard_artifacts.Schema),
        hyperparameters=Hyperparameters.of("cnn", train_steps=60, batch_size=32).to_config(),
    )
    return stages.run(component, inputs.artifacts, tmp_path_factory.mktemp("trained"))
