# SPDX-License-Identifier: Apache-2.0
"""Training jobs with real workers: processes that train together, over loopback and a store."""

from __future__ import annotations

import json
import logging
import pathlib
import threading

import pytest

from components.errors import GateStopped, ProjectError
from components.train.hyperparameters import Hyperparameters
from pipeline import code_digest
from pipeline.kubeflow.training_job import job_watch, tfjob
from tests import object_stores
from tests.kubeflow import cluster_stub, launching
from tests.kubeflow.launching import list_files
from tests.train.conftest import make_digits

pytestmark = pytest.mark.slow

STEPS = 120


@pytest.fixture(scope="module")
def s3():
    with object_stores.running() as server:
        yield server


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def stub(tmp_path):
    with cluster_stub.running(tmp_path / "cluster") as server:
        server.secrets["store"] = launching.KEYS
        yield server


@pytest.fixture
def launch(tmp_path, monkeypatch, s3, inputs, stub):
    """Returns a function that runs a training job on the digits and returns the task's folder."""
    bucket = s3.bucket("artifacts")
    for key, folder in (("ingest/examples", "examples"), ("transform/transform_graph", "transform_graph")):
        uri = inputs.artifacts[folder].uri
        for name in list_files(pathlib.Path(uri)):
            bucket.upload_file(f"{uri}/{name}", f"elsewhere/{key}/{name}")
    monkeypatch.setattr(job_watch, "POLL_SECONDS", 0.2)

    def start(workers, digest=None, **hyperparameters):
        job = launching.manifest(s3, workers, digest or code_digest.of_project())
        values = Hyperparameters.of("cnn", batch_size=16, **{"train_steps": STEPS, **hyperparameters})
        config = {**values.to_config(), "accelerator": "cpu", "gpus": 1, "code_digest": "c"}
        folder = tmp_path / f"task-{len(stub.created_jobs)}"
        tfjob.run_fn(launching.fn_args(folder, job, config))
        return folder

    return start


@pytest.fixture
def progress(caplog):
    caplog.set_level(logging.INFO, "progress")
    return caplog


def read_training(folder):
    return json.loads((folder / "model_run/training.json").read_text())


def test_two_workers_reach_the_accuracy_of_one(launch, stub, progress, s3):
    paths = []
    s3.before = lambda method, path: paths.append(path)
    single = read_training(launch(1))
    folder = launch(2)
    double = read_training(folder)
    s3.reset()
    assert (single["devices"], single["steps"]) == (["CPU:0"], STEPS)
    assert (double["devices"], double["steps"]) == (["worker 0 CPU:0", "worker 1 CPU:0"], STEPS // 2)
    accuracies = [training["epochs"][-1]["val_accuracy"] for training in (single, double)]
    assert min(accuracies) > 0.8
    assert abs(accuracies[0] - accuracies[1]) < 0.06
    assert {"model/Format-Serving/saved_model.pb", "model/keras/model.keras"} <= list_files(folder)
    assert [code for _, _, code in stub.exits] == [0, 0, 0]
    assert not [path for path in paths if "Split-test" in path]
    assert [path for path in paths if "Split-val" in path]
    assert progress.messages.count("worker 0: exporting the model") == 2
    remaining = [item.key for item in s3.resource("artifacts").objects.filter(Prefix="root/")]
    assert remaining == []  # nor any checkpoint


def test_the_training_resumes_after_a_worker_was_killed(launch, stub, progress):
    def kill():
        cluster_stub.wait_until(lambda: "worker 0: epoch 3/" in progress.text, 150)
        stub.worker(1).process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    training = read_training(launch(2, train_steps=600))
    thread.join()
    assert training["steps"] == 300
    assert [row["epoch"] for row in training["epochs"]] == list(range(1, len(training["epochs"]) + 1))
    codes = {(index, code) for _, index, code in stub.exits}
    assert {(1, 137), (0, 138), (0, 0), (1, 0)} <= codes
    assert "worker 0: resuming after epoch " in progress.text
    assert stub.jobs == {}


def test_a_diverging_training_stops_the_task(launch, stub, tmp_path):
    with pytest.raises(GateStopped, match=r"learning rate.*\(train-0a1b2c3d-\S+-worker-\d of the training job"):
        launch(2, learning_rate=1e30)
    assert list_files(tmp_path / "task-0") == set()
    assert stub.jobs == {}


def test_an_image_with_other_code_is_refused(launch, tmp_path):
    with pytest.raises(ProjectError, match=r"^The image must hold the code that the package was compiled from"):
        launch(1, digest="0" * 64)
    assert list_files(tmp_path / "task-0") == set()
