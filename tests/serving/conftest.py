# SPDX-License-Identifier: Apache-2.0
"""An exported model that recognises real digits, and servers of it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components import features
from components.push import versions
from tests.serving.servers import Server

# Of the server that most tests share: a body that is too large still fits into the sockets' buffers.
MAX_BODY_BYTES = 200_000


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def as_b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def as_example(image: np.ndarray) -> bytes:
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
    return tf.train.Example(features=tf.train.Features(feature={features.IMAGE: feature})).SerializeToString()


def photograph(image: np.ndarray, seed: int) -> Image.Image:
    """A digit drawn with a dark pen on paper in uneven light, somewhere in the picture, with a camera's noise."""
    random = np.random.default_rng(seed)
    scale = int(random.integers(10, 20))
    large = Image.fromarray(image).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
    width, height = (int(size) for size in random.integers(28 * scale, 50 * scale, 2))
    canvas = Image.new("L", (width, height))
    canvas.paste(
        large, (int(random.integers(0, width - 28 * scale + 1)), int(random.integers(0, height - 28 * scale + 1)))
    )
    y, x = np.mgrid[0:height, 0:width]
    light = 160 + 50 * random.uniform(-1, 1) * x / width + 50 * random.uniform(-1, 1) * y / height
    ink = np.asarray(canvas).astype(float) / 255
    noisy = light * (1 - 0.75 * ink) + random.normal(0, 4, ink.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real handwritten digits, uint8 [n, 28, 28], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.kron(data.images * 15, np.ones((3, 3))).astype(np.uint8)
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), data.target


@pytest.fixture(scope="session")
def exported(tmp_path_factory, digits) -> dict[str, pathlib.Path]:
    """Linear networks: `good`, the least-squares solution; `shifted`, one class off; `nan`, without probabilities."""
    import keras
    import tensorflow as tf

    from components.train.data import TransformGraph
    from components.train.export import export
    from components.train.hyperparameters import Hyperparameters
    from components.train.models import build
    from components.transform.preprocessing import preprocessing_fn

    folder = tmp_path_factory.mktemp("exported")
    specs = {
        features.IMAGE: tf.TensorSpec([None], tf.string, name=features.IMAGE),
        features.LABEL: tf.TensorSpec([None], tf.int64, name=features.LABEL),
    }
    graph = tf.Module()
    graph.transform_fn = tf.function(preprocessing_fn).get_concrete_function(specs)
    tf.saved_model.save(graph, str(folder / "graph" / "transform_fn"))
    transform = TransformGraph(str(folder / "graph"))
    images, labels = digits
    pixels = np.c_[images.reshape(len(images), -1) / 255.0, np.ones(len(images))]
    targets = np.where(np.eye(10)[labels] > 0, 6.0, -6.0)
    solution = np.linalg.solve(pixels.T @ pixels + 3 * np.eye(pixels.shape[1]), pixels.T @ targets)
    paths = {}
    for name, shift, factor in (("good", 0, 1), ("shifted", 1, 1), ("nan", 0, np.nan)):
        keras.utils.set_random_seed(1)
        network = build(Hyperparameters.of("linear"))
        weights = np.roll(solution * factor, shift, axis=1).astype(np.float32)
        network.layers[-1].set_weights([weights[:-1], weights[-1]])
        paths[name] = folder / name
        export(network, transform, str(paths[name]))
    return paths


@pytest.fixture(scope="session")
def push(exported) -> Callable[..., pathlib.Path]:
    """Adds an exported model to a folder as a version, by one rename."""

    def push_version(folder: pathlib.Path, number: int, model: str = "good", **provenance: Any) -> pathlib.Path:
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f".staging-{number}"
        shutil.copytree(exported[model], staging)
        if provenance:
            extra = staging / versions.EXTRA
            extra.mkdir()
            (extra / versions.PROVENANCE_FILE).write_text(json.dumps(provenance))
        return staging.rename(folder / str(number))

    return push_version


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Starts servers; those that still run are stopped at the end."""
    folder = tmp_path_factory.mktemp("servers")
    with contextlib.ExitStack() as stack:
        counter = iter(range(1000))

        def start_server(model_dir: pathlib.Path, *arguments: str, forked: bool = True) -> Server:
            server = Server(model_dir, folder / f"{next(counter)}.log", *arguments, forked=forked)
            stack.callback(server.stop)
            return server

        yield start_server


@pytest.fixture(scope="session")
def server(tmp_path_factory, push, start) -> Server:
    """A server of version 1 of a model named mnist."""
    folder = tmp_path_factory.mktemp("serving") / "mnist"
    push(folder, 1, dataset={"name": "digits"}, metrics={"accuracy": 0.9})
    return start(folder, "--max-body-bytes", str(MAX_BODY_BYTES))


@pytest.fixture(scope="session")
def tight(tmp_path_factory, push, start) -> Server:
    """A server with narrow limits."""
    folder = tmp_path_factory.mktemp("tight") / "mnist"
    push(folder, 1)
    return start(
        folder, "--max-body-bytes", "100000", "--max-instances", "20", "--max-queue", "16", "--request-seconds", "1"
    )
