# SPDX-License-Identifier: Apache-2.0
"""Training jobs whose workers are the real ones: processes that train together, over loopback and a store."""

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
from tests.kubeflow.launching import files

pytestmark = pytest.mark.slow

STEPS = 120


@pytest.fixture(scope="module")
def s3():
    with object_stores.running() as server:
        yield server


@pytest.fixture
def stub(tmp_path):
    with cluster_stub.running(tmp_path / "cluster") as made:
        made.secrets["store"] = launching.KEYS
        yield made


@pytest.fixture
def launch(tmp_path, monkeypatch, s3, inputs, stub):
    """Runs a training job on the digits, and returns the folder of the task."""
    bucket = s3.bucket("artifacts")
    for key, folder in (("ingest/examples", "examples"), ("transform/transform_graph", "transform_graph")):
        uri = inputs.artifacts[folder].uri
        for name in files(pathlib.Path(uri)):
            bucket.upload_file(f"{uri}/{name}", f"elsewhere/{key}/{name}")
    monkeypatch.setattr(job_watch, "POLL_SECONDS", 0.2)

    def start(workers, digest=None, **hyperparameters):
        job = launching.manifest(s3, workers, digest or code_digest.of_project())
        told = Hyperparameters.of("cnn", batch_size=16, **{"train_steps": STEPS, **hyperparameters})
        config = {**told.to_config(), "accelerator": "cpu", "gpus": 1, "code_digest": "c"}
        here = tmp_path / f"task-{len(stub.made)}"
        tfjob.run_fn(launching.fn_args(here, job, config))
        return here

    return start


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "progress")
    return caplog


def training(here):
    return json.loads((here / "model_run/training.json").read_text())


def test_two_workers_make_one_model_as_good_as_that_of_one(launch, stub, said, s3):
    asked = []
    s3.before = lambda method, path: asked.append(path)
    alone, together = training(launch(1)), training(here := launch(2))
    s3.reset()
    assert (alone["devices"], alone["steps"]) == (["CPU:0"], STEPS)
    assert (together["devices"], together["steps"]) == (["worker 0 CPU:0", "worker 1 CPU:0"], STEPS // 2)
    accuracies = [one["epochs"][-1]["val_accuracy"] for one in (alone, together)]
    assert min(accuracies) > 0.8
    assert abs(accuracies[0] - accuracies[1]) < 0.06
    assert {"model/Format-Serving/saved_model.pb", "model/keras/model.keras"} <= files(here)
    assert [code for _, _, code in stub.ends] == [0, 0, 0]
    assert not [path for path in asked if "Split-test" in path]
    assert [path for path in asked if "Split-val" in path]
    assert said.messages.count("worker 0: exporting the model") == 2
    left = [one.key for one in s3.resource("artifacts").objects.filter(Prefix="root/")]
    assert left == []  # no checkpoint either


def test_a_worker_that_is_killed_is_started_again_and_the_training_goes_on(launch, stub, said):
    def kill():
        cluster_stub.wait_until(lambda: "worker 0: epoch 3/" in said.text, 150)
        stub.worker(1).process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    told = training(launch(2, train_steps=600))
    thread.join()
    assert told["steps"] == 300
    assert [row["epoch"] for row in told["epochs"]] == list(range(1, len(told["epochs"]) + 1))
    codes = {(index, code) for _, index, code in stub.ends}
    assert {(1, 137), (0, 138), (0, 0), (1, 0)} <= codes
    assert "worker 0: going on after epoch " in said.text
    assert stub.jobs == {}


def test_a_training_that_diverges_stops_with_its_sentence(launch, stub, tmp_path):
    with pytest.raises(GateStopped, match=r"learning rate.*\(train-0a1b2c3d-\S+-worker-\d of the training job"):
        launch(2, learning_rate=1e30)
    assert files(tmp_path / "task-0") == set()
    assert stub.jobs == {}


def test_an_image_with_other_code_trains_nothing(launch, tmp_path):
    with pytest.raises(ProjectError, match=r"^The image must hold the code that the package was compiled from"):
        launch(1, digest="0" * 64)
    assert files(tmp_path / "task-0") == set()
