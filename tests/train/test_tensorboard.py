# SPDX-License-Identifier: Apache-2.0
"""The event files of a real training, read with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from components.train import tensorboard
from components.train.callbacks import EpochValidation
from components.train.data import InMemoryDataset
from components.train.hyperparameters import Hyperparameters
from components.train.tensorboard import TensorBoardLogs
from tests.train.conftest import TRAINED


def read_runs(folder: pathlib.Path) -> EventMultiplexer:
    return EventMultiplexer(size_guidance={"tensors": 0}).AddRunsFromDirectory(str(folder)).Reload()


def values(runs: EventMultiplexer, run: str, tag: str) -> dict[int, Any]:
    return {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in runs.Tensors(run, tag)}


def image(value: Any) -> np.ndarray:
    """Returns the picture of an image summary, whose value is width, height and PNG files."""
    with Image.open(io.BytesIO(value[2])) as picture:
        assert [int(side) for side in value[:2]] == list(picture.size)
        return np.asarray(picture)


@pytest.fixture(scope="module")
def model_run(trained: dict[str, Any]) -> pathlib.Path:
    return pathlib.Path(trained["model_run"].uri)


def test_curves_and_graph(model_run: pathlib.Path) -> None:
    runs = read_runs(model_run)
    epochs = json.loads((model_run / "training.json").read_text())["epochs"]
    for run, prefix in (("train", ""), ("validation", "val_")):
        for metric in ("loss", "accuracy"):
            curve = values(runs, run, f"epoch_{metric}")
            assert [float(curve[step]) for step in range(6)] == pytest.approx([row[prefix + metric] for row in epochs])
    rates = values(runs, "train", "epoch_learning_rate")
    assert [float(rates[step]) for step in range(6)] == pytest.approx([row["learning_rate"] for row in epochs])
    assert "keras" in runs.Runs()["train"]["tensors"]  # the graph, as layers


def test_pictures_of_each_epoch(model_run: pathlib.Path) -> None:
    runs = read_runs(model_run)
    for tag, shape in (("val/confusion_matrix", (374, 374, 3)), ("val/mistakes", None)):
        pictures = values(runs, ".", tag)
        assert sorted(pictures) == list(range(6)), tag
        for value in pictures.values():
            picture = image(value)
            assert shape in (None, picture.shape)
            assert picture.dtype == np.uint8
            assert len(np.unique(picture)) > 10


def test_hyperparameters_and_their_metrics(model_run: pathlib.Path) -> None:
    content = read_runs(model_run).PluginRunToTagToContent(hparams_metadata.PLUGIN_NAME)["."]
    started = hparams_metadata.parse_session_start_info_plugin_data(content[hparams_metadata.SESSION_START_INFO_TAG])
    logged = {name: value.string_value or value.number_value for name, value in started.hparams.items()}
    assert logged == {name: value for name, value in TRAINED.to_config().items() if value is not None}
    experiment = hparams_metadata.parse_experiment_plugin_data(content[hparams_metadata.EXPERIMENT_TAG])
    assert [(metric.name.group, metric.name.tag) for metric in experiment.metric_infos] == [
        ("validation", "epoch_accuracy"), ("validation", "epoch_loss")
    ]  # fmt: skip


def test_the_confusion_matrix_counts_predictions(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    picture = np.zeros((2, 2, 3), np.uint8)
    monkeypatch.setattr(
        tensorboard, "draw_confusion_matrix", lambda matrix, names: (drawn.update(matrix=matrix), picture)[1]
    )
    monkeypatch.setattr(
        tensorboard, "draw_gallery", lambda images, captions: (drawn.update(captions=captions), picture)[1]
    )
    # A network that predicts 3 for every image, with a probability that rises with brightness.
    network = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    kernel = np.zeros((784, 10), np.float32)
    kernel[:, 3] = 0.01
    network.set_weights([kernel, np.zeros(10, np.float32)])
    images = np.ones((4, 28, 28, 1), np.float32) * np.array([0.1, 0.2, 0.3, 0.4], np.float32)[:, None, None, None]
    network.compile("sgd")
    validation = EpochValidation(keras.models.clone_model(network), InMemoryDataset(images, np.array([3, 5, 7, 200])))
    callback = TensorBoardLogs(str(tmp_path), validation, Hyperparameters.of("linear"))
    for each in (validation, callback):
        each.set_model(network)
        each.on_epoch_end(0)
    matrix, captions = drawn["matrix"], drawn["captions"]
    assert {(row, column): matrix[row, column] for row, column in np.argwhere(matrix)} == {
        (3, 3): 1, (5, 3): 1, (7, 3): 1
    }  # fmt: skip
    assert [caption[:6] for caption in captions] == [
        "7 as 3",
        "5 as 3",
    ]  # by the probability of the true class
    assert captions[0].endswith("54%")  # e^2.352 / (e^2.352 + 9)


def test_drawing() -> None:
    matrix = np.diag([5, 0, 3])
    matrix[2, 0] = 1
    drawn = tensorboard.draw_confusion_matrix(matrix, ("a", "b", "c"))
    assert drawn.shape == (136, 136, 3)
    inside = drawn[34 + 2 :: 34, 34 + 2 :: 34].astype(int)  # a pixel of each cell, beside the number
    colored = inside.max(axis=2) - inside.min(axis=2) > 10
    assert colored.tolist() == [[True, False, False], [False, False, False], [True, False, True]]
    assert inside[0, 0].argmax() == 2  # blue
    assert inside[2, 0].argmax() == 0  # red
    images = np.zeros((9, 28, 28, 1))
    images[8] = 1.0
    gallery = tensorboard.draw_gallery(images, ["x"] * 9)
    assert gallery.shape == (2 * 78, 8 * 76, 3)
    assert gallery[:64, :64].max() == 0
    assert gallery[78 : 78 + 64, :64].min() == 255
