# SPDX-License-Identifier: Apache-2.0
"""A real exported model that knows real digits, and real servers in processes of their own."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components import features
from components.push import versions

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server in a process of its own."""

    def __init__(self, model_dir: pathlib.Path, log: pathlib.Path, *arguments: str):
        self.log = log
        command = [sys.executable, "-m", "serving", "--model-dir", str(model_dir), "--port", "0", *arguments]
        # With settings for Keras and TensorFlow that would keep it from starting.
        settings = {"KERAS_BACKEND": "none", "TF_CONFIG": "none", "TF_XLA_FLAGS": "none"}
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **settings}
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        for _ in range(1200):
            text = log.read_text()
            if " on http://" in text:
                break
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {text}")
            time.sleep(0.05)
        self.url = text.split(" on ", 1)[1].split()[0]
        self.port = int(self.url.rsplit(":", 1)[1])
        self.wait_for(lambda: self.call("/readyz").status == 200)

    def call(self, path: str, body: Any = None, method: str | None = None) -> Answer:
        """Asks; `body` is sent as it is where it is bytes, else as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())
        except urllib.error.URLError as error:
            return Answer(0, {}, str(error).encode())

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise TimeoutError(self.log.read_text())
            time.sleep(0.05)

    def resident_mib(self) -> float:
        pages = int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def as_b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real handwritten digits, uint8 [n, 28, 28], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.kron(data.images * 15, np.ones((3, 3))).astype(np.uint8)
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), data.target


@pytest.fixture(scope="session")
def exported(tmp_path_factory, digits) -> dict[str, pathlib.Path]:
    """A linear network with the least-squares solution, `good`; one class off, `turned`; `nan`: no numbers."""
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
    made = {}
    for name, shift, factor in (("good", 0, 1), ("turned", 1, 1), ("nan", 0, np.nan)):
        keras.utils.set_random_seed(1)
        network = build(Hyperparameters.of("linear"))
        turned = np.roll(solution * factor, shift, axis=1).astype(np.float32)
        network.layers[-1].set_weights([turned[:-1], turned[-1]])
        made[name] = folder / name
        export(network, transform, str(made[name]))
    return made


@pytest.fixture(scope="session")
def put(exported) -> Callable[..., pathlib.Path]:
    """Puts a model into a serving folder as a version, by one rename as a push does."""

    def put_version(folder: pathlib.Path, number: int, model: str = "good", **provenance: Any) -> pathlib.Path:
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f".staging-{number}"
        shutil.copytree(exported[model], staging)
        if provenance:
            extra = staging / versions.EXTRA
            extra.mkdir()
            (extra / versions.PROVENANCE_FILE).write_text(json.dumps(provenance))
        return staging.rename(folder / str(number))

    return put_version


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Starts servers; those that still run are stopped at the end."""
    folder = tmp_path_factory.mktemp("servers")
    with contextlib.ExitStack() as stack:
        counter = iter(range(1000))

        def start_server(model_dir: pathlib.Path, *arguments: str) -> Server:
            server = Server(model_dir, folder / f"{next(counter)}.log", *arguments)
            stack.callback(server.stop)
            return server

        yield start_server


@pytest.fixture(scope="session")
def server(tmp_path_factory, put, start) -> Server:
    """A server of version 1 of a model named mnist, with default limits."""
    folder = tmp_path_factory.mktemp("serving") / "mnist"
    put(folder, 1, dataset={"name": "digits"}, metrics={"accuracy": 0.9})
    return start(folder)
