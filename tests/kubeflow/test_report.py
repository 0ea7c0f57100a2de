# SPDX-License-Identifier: Apache-2.0
"""The exit handler's task, from the records of a made-up run's tasks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from components import findings
from pipeline.kubeflow import launcher_adapter, report, task_records
from pipeline.run_record import Failure, Metrics, RunRecord, State, Verdict
from tests import object_stores
from tests.report.conftest import make_run  # noqa: F401 - a fixture

NODES = [
    "ingest", "baseline", "statistics", "data-check", "data-gate", "transform", "train", "evaluate", "push"
]  # fmt: skip
PREFIX = "minio://reports/root/mnist-tfx/run-7"
FINDING = findings.Finding(
    "label-out-of-range", "2 labels are out of range.", 2.0, 0.0, 2, ("t10k-images-idx3-ubyte#1",)
)
CONFIG = {
    "output": "output",
    "serving_name": "mnist",
    "force_push": None,
    "profile": "mnist",
    "training": {"model": "cnn"},
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher_adapter, "ROOT", tmp_path / "container")
    with object_stores.running() as server:
        yield server.bucket("reports")


@pytest.fixture
def run(store, make_run):  # noqa: F811
    """A run with all artifacts in the store, of which no task has noted anything yet."""
    record = make_run()
    for name, folder in record.artifacts.items():
        task, key = name.split(".")
        for path in folder_files(folder):
            store.upload_file(str(path), f"root/mnist-tfx/run-7/{task}/salt/{key}/{path.relative_to(folder)}")
    values = record.to_json()
    figures = {"candidate": values["metrics"], "baseline": values["baseline"]["metrics"] | {"version": 1}}
    put(store, "evaluate/salt/checks/metrics.json", figures)
    put(store, "evaluate/salt/checks/gates.json", values["gates"][1:])
    put(store, "evaluate/salt/checks/findings.json", [])
    return record


def folder_files(folder):
    import pathlib

    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]


def put(store, key, content):
    store.put_object(Key=f"root/mnist-tfx/run-7/{key}", Body=json.dumps(content).encode())


def artifact(task, key, **metadata):
    return task_records.TaskArtifact(f"{PREFIX}/{task}/salt/{key}", metadata)


EXAMPLES = artifact("ingest", "examples", dataset="digits", images=60.0, dataset_sha256="ab" * 32)
OUTPUTS = {
    "ingest": {"examples": EXAMPLES},
    "statistics": {"statistics": artifact("statistics", "statistics")},
    "data-check": {"checks": artifact("data-check", "checks")},
    "train": {"model": artifact("train", "model"), "model_run": artifact("train", "model_run")},
    "evaluate": {"checks": artifact("evaluate", "checks")},
    "push": {"pushed_model": artifact("push", "pushed_model", pushed=1.0, version=2.0, path="s3://models/mnist/2")},
}


def note(task, state=State.DONE, failure=None, inputs=None):
    outputs = OUTPUTS.get(task, {}) if state == State.DONE else {}
    task_records.write_task_record(
        PREFIX, task_records.TaskRecord(task, state, 100.0, 102.5, inputs or {}, outputs, failure)
    )


def make_report(tmp_path, store, **values):
    executor_input = {
        "inputs": {
            "parameterValues": {"config": json.dumps(CONFIG), "model": "cnn", "data_dir": "s3://data/x", **values}
        },
        "outputs": {
            "artifacts": {
                key: {"artifacts": [{"uri": f"{PREFIX}/report/salt/{key}", "type": {"schemaTitle": "system.Artifact"}}]}
                for key in ("html", "metrics", "classification_metrics", "record")
            },
            "outputFile": str(tmp_path / "kfp/output_metadata.json"),
        },
    }
    arguments = ["--task", "report", "--stages", ",".join(NODES), "--input", json.dumps(executor_input)]
    assert report.main(arguments) == 0
    outputs = json.loads((tmp_path / "kfp/output_metadata.json").read_text())["artifacts"]
    container = tmp_path / "container/minio/reports/root/mnist-tfx/run-7/report/salt"
    row = json.loads((container / "record").read_text())
    assert json.loads(store.Object("root/mnist-tfx/run-7/record.json").get()["Body"].read()) == row
    html = (container / "html").read_text()
    return row, html, {key: entry["artifacts"][0] for key, entry in outputs.items()}


def states(row):
    return {stage["name"]: stage["state"] for stage in row["stages"]}


def test_a_run_that_pushed(run, tmp_path, store, capsys):
    for task in NODES:
        note(task)
    row, html, outputs = make_report(tmp_path, store, train_steps=5.0)
    assert (row["verdict"], row["exit_code"], row["run_id"]) == ("pushed", 0, "run-7")
    assert row["sentence"].startswith("PUSHED: accuracy 95.00%, baseline 90.00% (version 1), version 2 in s3://models")
    assert row["dataset"] == {
        "name": "digits",
        "images": 60,
        "sha256": "ab" * 32,
        "choice": "read from s3://data/x",
        "excluded": {},
    }
    assert (row["model"]["version"], row["model"]["path"]) == (2, "s3://models/mnist/2")
    assert row["config"]["training"]["train_steps"] == 5
    assert row["candidate"] == f"{PREFIX}/train/salt/model"
    assert row["artifacts"]["evaluate.checks"] == f"{PREFIX}/evaluate/salt/checks"
    assert row["report"] == f"{PREFIX}/report/salt/html"
    assert row["stages"][0] == {"name": "ingest", "state": "done", "seconds": 2.5}
    assert [gate["name"] for gate in row["gates"]] == ["data", "change", "accuracy-floor", "recall-floor"]
    assert "PUSHED: accuracy 95.00%" in html
    assert f"{PREFIX}/train/salt/model" in html
    assert str(tmp_path) not in html
    assert "data:image/png" in html  # the images were fetched
    assert "95.00%" in capsys.readouterr().out

    metrics = outputs["metrics"]["metadata"]
    assert metrics["accuracy"] == 0.95
    assert metrics["baseline accuracy"] == 0.9
    assert metrics["recall 4"] == 0.5
    assert (metrics["verdict"], metrics["version"]) == ("pushed", 2)
    drawn = outputs["classification_metrics"]["metadata"]
    names = [spec["displayName"] for spec in drawn["confusionMatrix"]["annotationSpecs"]]
    rows = [row["row"] for row in drawn["confusionMatrix"]["rows"]]
    assert names == list("0123456789")
    assert np.array(rows).shape == (10, 10)
    assert rows[4][4] == rows[4][9] == 1
    assert outputs["html"]["uri"] == row["report"]


@pytest.mark.parametrize("transform", [State.DONE, State.FAILED])
def test_a_run_that_the_data_gate_stopped(run, tmp_path, store, transform):
    put(store, "data-check/salt/checks/findings.json", [vars(FINDING)])
    for task in ("ingest", "baseline", "statistics", "data-check"):
        note(task)
    note("data-gate", State.FAILED, Failure(3, FINDING.sentence, Verdict.STOPPED))
    note("transform", transform, Failure(1, "ValueError") if transform == State.FAILED else None)
    row, html, outputs = make_report(tmp_path, store)
    assert (row["verdict"], row["exit_code"], row["reason"]) == ("stopped", 3, FINDING.sentence)
    assert row["findings"][0]["name"] == "label-out-of-range"
    assert states(row)["data-gate"] == "failed"
    assert states(row)["train"] == states(row)["push"] == "skipped"
    assert FINDING.sentence in html
    assert outputs["metrics"]["metadata"] == {"verdict": "stopped"}
    assert outputs["classification_metrics"]["metadata"] == {}


@pytest.mark.parametrize("verdict", [Verdict.NOT_BLESSED, Verdict.STOPPED])
def test_a_run_that_push_refused(run, tmp_path, store, verdict):
    for task in NODES[:8]:
        note(task)
    note("push", State.FAILED, Failure(3, "recall missed by 10 points", verdict))
    row, _, outputs = make_report(tmp_path, store)
    assert (row["verdict"], row["exit_code"], row["reason"]) == (verdict, 3, "recall missed by 10 points")
    assert row["metrics"]["accuracy"] == 0.95
    assert "confusionMatrix" in outputs["classification_metrics"]["metadata"]


def test_what_a_cached_task_made_is_known_from_those_that_used_it(run, tmp_path, store):
    inputs = {"statistics": OUTPUTS["statistics"]["statistics"], "model_checks": OUTPUTS["evaluate"]["checks"]}
    for task in NODES:
        if task not in ("statistics", "evaluate"):
            note(task, inputs=inputs if task == "push" else None)
    row, _, _ = make_report(tmp_path, store)
    assert row["verdict"] == "pushed"
    assert states(row)["statistics"] == states(row)["evaluate"] == "cached"
    assert row["metrics"]["accuracy"] == 0.95


def test_a_task_that_was_killed(run, tmp_path, store):
    for task in NODES[:5]:
        note(task)
    task_records.write_task_record(PREFIX, task_records.TaskRecord("train", State.RUNNING, 100.0, None, {}, {}))
    row, html, _ = make_report(tmp_path, store)
    assert (row["verdict"], row["exit_code"]) == ("failed", 1)
    assert row["reason"].startswith("train started and recorded no end: its process was killed or its pod was lost")
    assert "memory" not in row["reason"]
    assert "train started and recorded no end" in html


def test_a_run_in_which_nothing_started(tmp_path, store):
    row, _, _ = make_report(tmp_path, store)
    assert (row["verdict"], row["exit_code"]) == ("failed", 1)
    assert row["reason"].startswith("ingest never started")


def test_a_report_that_cannot_be_made_leaves_the_verdict(run, tmp_path, store, monkeypatch):
    from pipeline.report import page

    def broken(*arguments):
        raise RuntimeError("no template")

    for task in NODES:
        note(task)
    monkeypatch.setattr(page, "write", broken)
    with pytest.raises(FileNotFoundError):  # there is no page
        make_report(tmp_path, store)
    row = json.loads(store.Object("root/mnist-tfx/run-7/record.json").get()["Body"].read())
    assert (row["verdict"], row["report"]) == ("pushed", None)


def test_a_store_that_refuses_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launcher_adapter, "ROOT", tmp_path / "container")
    monkeypatch.setattr(f"{__name__}.PREFIX", "minio://absent/root/mnist-tfx/run-7")
    with object_stores.running(), pytest.raises(AssertionError):
        make_report(tmp_path, None)
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: s3://absent/root/mnist-tfx/run-7/")
    assert "there is no such bucket" in sentence


def test_figures_that_are_not_finite_are_left_out():
    metrics = Metrics(accuracy=0.5, loss=math.nan)
    record = RunRecord(run_id="run-7", verdict=Verdict.NOT_BLESSED, metrics=metrics)
    assert report.metrics_metadata(record) == {"verdict": "not_blessed", "accuracy": 0.5}


def test_the_roc_curve_rises_from_the_origin_to_one():
    labels = np.array([0, 1, 2, 0, 1, 2, -1])
    scores = np.array([
        [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3], [0.1, 0.9, 0.0], [0.5, 0.0, 0.5],
        [math.nan, 0.5, 0.5],
    ], np.float32)  # fmt: skip
    drawn = report.classification_metadata(["a", "b", "c"], np.eye(3, dtype=np.int64), labels, scores)
    points = drawn["confidenceMetrics"]
    rates = [(point["falsePositiveRate"], point["recall"]) for point in points]
    assert rates[0] == (0.0, 0.0)
    assert rates[-1] == (1.0, 1.0)
    assert rates == sorted(rates)
    # At 0.6: four of six right, none wrong.
    assert max(recall for false_positive, recall in rates if false_positive == 0) == pytest.approx(4 / 6)
    thresholds = [point["confidenceThreshold"] for point in points]
    assert all(math.isfinite(value) for value in thresholds)
    assert thresholds == sorted(thresholds, reverse=True)


def test_a_single_class_has_no_roc_curve():
    drawn = report.classification_metadata(["a"], np.array([[2]]), np.array([0, 0]), np.ones((2, 1), np.float32))
    assert "confidenceMetrics" not in drawn
