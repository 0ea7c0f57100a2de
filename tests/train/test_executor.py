# SPDX-License-Identifier: Apache-2.0
"""What a run is told when it starts reaches the training."""

from __future__ import annotations

import json
import pathlib

import pytest
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components.errors import BadInput
from components.train import executor
from components.train.component import train

TOLD = {
    "model": RuntimeParameter("model", str, "cnn"),
    "train_steps": RuntimeParameter("train_steps", int, 600),
    "ksize1": RuntimeParameter("ksize1", int, 3),
    "learning_rate": RuntimeParameter("learning_rate", float, -1.0),
}


def run(inputs, folder: pathlib.Path, **values):
    component = train(
        examples=Channel(type=standard_artifacts.Examples),
        transform_graph=Channel(type=standard_artifacts.TransformGraph),
        schema=Channel(type=standard_artifacts.Schema),
        hyperparameters=TOLD,
    )
    properties = dict(component.spec.exec_properties)
    assert {name for name, value in properties.items() if isinstance(value, RuntimeParameter)} == {
        "model_type", "train_steps", "ksize1", "learning_rate",
    }  # fmt: skip
    outputs = {}
    for key, channel in component.outputs.items():
        outputs[key] = channel.type()
        outputs[key].uri = str(folder / key)
        (folder / key).mkdir()
    executor.Executor().Do(
        {key: [value] for key, value in inputs.artifacts.items()},
        {key: [value] for key, value in outputs.items()},
        properties | values,
    )
    return json.loads((folder / "model_run" / "training.json").read_text())


def test_the_model_and_its_steps_are_those_of_the_run(inputs, tmp_path):
    values = {"model_type": "linear", "train_steps": 2, "ksize1": 3, "learning_rate": -1.0}
    training = run(inputs, tmp_path, **values)
    assert (training["parameters"], training["steps"]) == (7850, 2)


def test_what_the_model_does_not_have_is_refused(inputs, tmp_path):
    values = {"model_type": "linear", "train_steps": 2, "ksize1": 4, "learning_rate": -1.0}
    with pytest.raises(BadInput, match="'linear' has no 'ksize1'"):
        run(inputs, tmp_path, **values)
