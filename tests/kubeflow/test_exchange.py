# SPDX-License-Identifier: Apache-2.0
"""Exchanging files through a store, and the parts of a worker that depend on them."""

from __future__ import annotations

import json
import threading

import pytest
import tenacity

from components import retries
from components.errors import BadInput
from components.train.devices import PeerLost
from pipeline.kubeflow.training_job import exchange, worker
from tests import object_stores

URL = "s3://artifacts/run/train/jobs/train-1"
JOB = exchange.Job(["s3://artifacts/train"], ["s3://artifacts/val"], "s3://artifacts/graph", {"model": "linear"})


@pytest.fixture(scope="module")
def s3():
    with object_stores.running() as server:
        yield server


@pytest.fixture(autouse=True)
def bucket(s3):
    s3.reset()
    return s3.bucket("artifacts")


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results" / "model").mkdir(parents=True)
    (tmp_path / "results" / "model" / "weights").write_text("some")
    return tmp_path / "results"


def test_a_job_is_written_and_read():
    exchange.write(URL, JOB)
    assert exchange.read(URL) == JOB


def test_an_address_without_a_job_is_refused():
    with pytest.raises(BadInput, match=r"must be the address of a training job; it has no job\.json"):
        exchange.read(URL)


def test_a_file_name_that_leaves_the_folder_is_refused(bucket, tmp_path):
    manifest = {"attempt": "a", "files": {"model/../../../escaped": {"size": 1, "sha256": ""}}}
    bucket.put_object(Key="run/train/jobs/train-1/results/manifest.json", Body=json.dumps(manifest).encode())
    with pytest.raises(BadInput, match="leads out of it"):
        exchange.fetch_results(URL, {"model": tmp_path / "model"})
    assert not (tmp_path / "model").exists()


def test_an_upload_is_retried(s3, results, tmp_path, monkeypatch):
    refused: list[str] = []

    def before(method, path):
        if method == "PUT" and not refused:
            refused.append(path)
            return object_stores.REFUSED
        return None

    monkeypatch.setattr(retries, "WAIT", tenacity.wait_none())
    s3.before = before
    retries.retrying(1, lambda error: isinstance(error, BadInput))(exchange.publish, URL, results)
    assert refused
    exchange.fetch_results(URL, {"model": tmp_path / "out"})
    assert (tmp_path / "out" / "weights").read_text() == "some"


def test_a_failed_upload_is_an_error_and_publishes_nothing(s3, results, monkeypatch):
    monkeypatch.setattr(retries, "WAIT", tenacity.wait_none())
    s3.before = lambda method, path: object_stores.REFUSED if method == "PUT" and path.endswith("weights") else None
    with pytest.raises(BadInput, match="access to it is refused"):
        retries.retrying(1, lambda error: isinstance(error, BadInput))(exchange.publish, URL, results)
    s3.reset()
    assert not exchange.is_published(URL)


def test_other_workers_wait_for_the_model(results, monkeypatch):
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.02)
    timer = threading.Timer(0.3, exchange.publish, (URL, results))
    timer.start()
    worker.wait_for_model(URL)
    assert exchange.is_published(URL)
    timer.join()


def test_an_outage_of_the_store_does_not_end_the_wait(s3, results, monkeypatch):
    requests = []

    def before(method, path):
        requests.append(path)
        return object_stores.REFUSED if len(requests) < 3 else None

    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.01)
    exchange.publish(URL, results)
    s3.before = before
    worker.wait_for_model(URL)
    s3.reset()
    assert len(requests) > 2


def test_checkpoints_that_cannot_be_removed_are_no_error(s3, bucket):
    bucket.put_object(Key="run/checkpoints/a/state.npz", Body=b"state")
    job = exchange.Job(
        train=[], val=[], transform_graph="", config={"checkpoints": f"s3://{bucket.name}/run/checkpoints"}
    )
    s3.before = lambda method, path: object_stores.REFUSED if method in {"DELETE", "POST"} else None
    worker.remove_checkpoints(job)
    s3.reset()
    assert [item.key for item in bucket.objects.filter(Prefix="run/checkpoints")] == ["run/checkpoints/a/state.npz"]
    worker.remove_checkpoints(job)
    assert not list(bucket.objects.filter(Prefix="run/checkpoints"))


def test_a_worker_restarts_if_the_model_is_never_published(monkeypatch):
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(worker, "UPLOAD_SECONDS", 0.1)
    with pytest.raises(PeerLost, match="must publish the model"):
        worker.wait_for_model(URL)


def test_a_worker_that_restarts_after_the_upload_does_nothing(results):
    exchange.write(URL, JOB)
    exchange.publish(URL, results)
    worker.work(URL)  # the inputs of the job don't exist
