# SPDX-License-Identifier: Apache-2.0
"""What a training job and its task give each other by way of a store."""

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
def made(tmp_path):
    (tmp_path / "made" / "model").mkdir(parents=True)
    (tmp_path / "made" / "model" / "weights").write_text("some")
    return tmp_path / "made"


def test_a_job_is_read_as_it_was_written():
    exchange.write(URL, JOB)
    assert exchange.read(URL) == JOB


def test_an_address_without_a_job_is_refused():
    with pytest.raises(BadInput, match=r"must be the address of a training job; it has no job\.json"):
        exchange.read(URL)


def test_a_file_that_leads_out_of_the_model_is_refused(bucket, tmp_path):
    manifest = {"attempt": "a", "files": {"model/../../../escaped": {"size": 1, "sha256": ""}}}
    bucket.put_object(Key="run/train/jobs/train-1/results/manifest.json", Body=json.dumps(manifest).encode())
    with pytest.raises(BadInput, match="leads out of it"):
        exchange.take(URL, {"model": tmp_path / "model"})
    assert not (tmp_path / "model").exists()


def test_a_store_that_refuses_an_upload_is_asked_again(s3, made, tmp_path, monkeypatch):
    refused: list[str] = []

    def before(method, path):
        if method == "PUT" and not refused:
            refused.append(path)
            return object_stores.REFUSED
        return None

    monkeypatch.setattr(retries, "WAIT", tenacity.wait_none())
    s3.before = before
    retries.retrying(1, lambda error: isinstance(error, BadInput))(exchange.publish, URL, made)
    assert refused
    exchange.take(URL, {"model": tmp_path / "out"})
    assert (tmp_path / "out" / "weights").read_text() == "some"


def test_a_model_that_cannot_be_uploaded_ends_the_worker_and_is_not_published(s3, made, monkeypatch):
    monkeypatch.setattr(retries, "WAIT", tenacity.wait_none())
    s3.before = lambda method, path: object_stores.REFUSED if method == "PUT" and path.endswith("weights") else None
    with pytest.raises(BadInput, match="access to it is refused"):
        retries.retrying(1, lambda error: isinstance(error, BadInput))(exchange.publish, URL, made)
    s3.reset()
    assert not exchange.is_published(URL)


def test_another_worker_stays_until_the_first_one_has_published(made, monkeypatch):
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.02)
    late = threading.Timer(0.3, exchange.publish, (URL, made))
    late.start()
    worker._wait_for_the_model(URL)
    assert exchange.is_published(URL)
    late.join()


def test_a_store_that_is_away_while_a_worker_waits_ends_nothing(s3, made, monkeypatch):
    asked = []

    def before(method, path):
        asked.append(path)
        return object_stores.REFUSED if len(asked) < 3 else None

    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.01)
    exchange.publish(URL, made)
    s3.before = before
    worker._wait_for_the_model(URL)
    s3.reset()
    assert len(asked) > 2


def test_a_store_that_lets_nothing_be_removed_keeps_the_checkpoints(s3, bucket):
    bucket.put_object(Key="run/checkpoints/a/state.npz", Body=b"state")
    job = exchange.Job(
        train=[], val=[], transform_graph="", config={"checkpoints": f"s3://{bucket.name}/run/checkpoints"}
    )
    s3.before = lambda method, path: object_stores.REFUSED if method in {"DELETE", "POST"} else None
    worker._remove_checkpoints(job)
    s3.reset()
    assert [one.key for one in bucket.objects.filter(Prefix="run/checkpoints")] == ["run/checkpoints/a/state.npz"]
    worker._remove_checkpoints(job)
    assert not list(bucket.objects.filter(Prefix="run/checkpoints"))


def test_another_worker_is_started_again_where_the_first_one_never_publishes(monkeypatch):
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(worker, "UPLOAD_SECONDS", 0.1)
    with pytest.raises(PeerLost, match="must publish the model"):
        worker._wait_for_the_model(URL)


def test_a_worker_that_is_started_again_after_the_upload_has_nothing_to_do(made):
    exchange.write(URL, JOB)
    exchange.publish(URL, made)
    worker.work(URL)  # there is nothing at the addresses of the job
