# SPDX-License-Identifier: Apache-2.0
"""The adaptations to the launcher, by two tiny tasks that fail without each, and the records of tasks."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import absl.logging
import pytest
import tenacity

from components import findings, retries
from pipeline import code_digest
from pipeline.kubeflow import entrypoint, launcher_adapter, task_records
from tests import object_stores
from tests.kubeflow import launcher, packages

ADAPTATIONS = [
    "drop_launchers_outputs",
    "restore_input_types",
    "unwrap_metadata",
    "drop_servers_metadata",
    "localize",
    "make_output_folders",
    "restore_uris",
    "restore_uris_in_metadata",
]
MODEL = {"instanceSchema": "title: tfx.Model\ntype: object\n"}


@pytest.fixture(scope="module")
def s3():
    with object_stores.running() as server:
        server.bucket("tiny")
        yield server


@pytest.fixture(autouse=True)
def restored_logging():
    """Restores logging and garbage collection, which the entrypoint sets up for its process."""
    handlers, level = list(logging.root.handlers), logging.root.level
    verbosity = absl.logging.get_verbosity()
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    absl.logging.set_verbosity(verbosity)
    gc.unfreeze()


@pytest.fixture
def cluster(s3, tmp_path, monkeypatch):
    def start(command, container, log):
        monkeypatch.setattr(launcher_adapter, "ROOT", container)
        return entrypoint.main(command)

    monkeypatch.setenv("KFP_POD_NAME", "pod")
    monkeypatch.chdir(tmp_path)
    cluster = launcher.Cluster("minio://tiny/root", tmp_path / "containers", start)
    cluster.new_run()
    return cluster


def run(cluster, executor, inputs, digest=None, parameters=None, again=0):
    return cluster.run_task(*task(executor, inputs, digest, parameters, again))


def task(executor, inputs, digest=None, parameters=None, again=0):
    """Name, command and executor input of a tiny task."""
    command = [
        "--executor", f"tests.kubeflow.tiny.{executor}",
        "--input", "{{$}}",
        "--inputs", "model=tfx.Model,steps=NUMBER_INTEGER",
        "--task", executor.lower(),
        "--code_digest", digest or code_digest.of_project(), "--retries", str(again),
    ]  # fmt: skip
    artifacts = {key: {"artifacts": [artifact]} for key, artifact in inputs.items()}
    executor_input = {
        "inputs": {"artifacts": artifacts, "parameterValues": parameters or {"steps": 3}},
        "outputs": {"artifacts": {"model": {"artifacts": [{"type": MODEL}]}}},
    }
    return executor.lower(), command, executor_input


def chain(cluster):
    """Returns whether both tasks succeed."""
    outputs = run(cluster, "Produce", {})
    return outputs is not None and run(cluster, "Consume", outputs) is not None


def test_tasks_are_adapted_to_the_launcher(cluster):
    assert chain(cluster)
    records = task_records.read_task_records(cluster.prefix)
    assert {name: record.state for name, record in records.items()} == {"produce": "done", "consume": "done"}
    model, ended = records["produce"].outputs["model"], records["produce"].ended
    assert model.uri.startswith(f"{cluster.prefix}/produce/")
    assert records["consume"].inputs["model"].uri == model.uri
    assert records["consume"].inputs["model"].metadata["layers"] == [3, 5]
    assert ended is not None
    assert ended >= records["produce"].started


@pytest.mark.parametrize("subject", ["the pipeline root", "TMPDIR"])
def test_a_folder_that_tensorflow_takes_for_a_pattern_is_refused(cluster, tmp_path, monkeypatch, capsys, subject):
    if subject == "TMPDIR":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "b?"))
    else:
        cluster = launcher.Cluster("minio://tiny/b[1]", tmp_path / "containers", cluster.start)
        cluster.new_run()
    assert run(cluster, "Produce", {}) is None
    message = capsys.readouterr().err
    assert message.startswith(f"error: {subject} takes a path without")
    assert message.count("\n") == 1


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_no_adaptation_can_be_left_out(cluster, monkeypatch, adaptation):
    monkeypatch.setattr(launcher_adapter, adaptation, lambda *arguments: None)
    assert not chain(cluster)


def test_every_adaptation_is_left_out_once():
    functions = {name for name, value in vars(launcher_adapter).items() if inspect.isfunction(value) and name[0] != "_"}
    assert functions - set(ADAPTATIONS) == {"blank_session", "local_path", "uris"}


def test_the_next_task_is_told_of_a_foreign_store_only(cluster, s3):
    outputs = run(cluster, "Produce", {})
    assert outputs is not None
    assert outputs["model"]["metadata"]["store_session_info"] == ""
    cluster.root = "s3://tiny/root"  # one's own, which the UI finds by what is noted
    outputs = run(cluster, "Produce", {})
    assert outputs is not None
    assert outputs["model"]["metadata"]["store_session_info"] == launcher.SESSION


def test_push_is_told_the_run_and_what_its_parameters_made_of_the_configuration(cluster):
    compiled = {"config": {"profile": "digits", "data_dir": "/compiled", "tune": 3}, "git_commit": "abc"}
    changed = {"run_data_dir": "s3://data", "run_force_push": "I know", "serving_dir": "s3://models/digits"}
    outputs = run(cluster, "Tell", {}, parameters={"run": json.dumps(compiled), "model": "mine", **changed})
    assert outputs is not None
    assert "run_data_dir" not in outputs["model"]["metadata"]
    assert outputs["model"]["metadata"]["model"] == "mine"
    values = json.loads(outputs["model"]["metadata"]["run"])
    assert (values["run_id"], values["git_commit"], values["forced"]) == (cluster.run_id, "abc", "I know")
    assert values["config"]["data_dir"] == "s3://data"
    assert (values["config"]["tune"], values["config"]["serving_name"]) == (3, "digits")
    assert values["config"]["model_gate"]["test_examples"] == 250
    assert values["code_digest"] == code_digest.of_project()


def test_a_task_that_launches_a_training_job_is_told_where_its_files_lie(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher_adapter, "ROOT", tmp_path)
    values = {
        "inputs": {
            "artifacts": {"examples": {"artifacts": [{"uri": "minio://data/root/other/run0/ingest/examples"}]}},
            "parameterValues": {"custom_config": json.dumps({"seed": 3, "training_job": {"kind": "TFJob"}})},
        },
        "outputs": {"artifacts": {"model": {"artifacts": [{"uri": "minio://bucket/root/mnist/run1/train/0f/model"}]}}},
    }
    values = json.loads(entrypoint._add_urls(json.dumps(values), "train"))
    assert json.loads(values["inputs"]["parameterValues"]["custom_config"]) == {
        "seed": 3,
        "training_job": {"kind": "TFJob"},
        "task": {
            "name": "train",
            "run": "s3://bucket/root/mnist/run1",
            "urls": {
                f"{tmp_path}/minio/data/root/other/run0/ingest/examples": "s3://data/root/other/run0/ingest/examples",
                f"{tmp_path}/minio/bucket/root/mnist/run1/train/0f/model": "s3://bucket/root/mnist/run1/train/0f/model",
            },
        },
    }


@pytest.mark.parametrize("config", ["null", "{}", ""])
def test_other_tasks_configurations_stay_as_they_are(cluster, config):
    assert run(cluster, "Produce", {}, parameters={"steps": 3, "custom_config": config}) is not None


def test_a_gate_that_stops(cluster, capsys):
    assert run(cluster, "Stop", {}) is None
    assert cluster.tasks[-1].exit_code == 3
    assert capsys.readouterr().err.splitlines()[-1] == "error: The candidate must be good, it is not. Train it longer."
    note: Any = task_records.read_task_records(cluster.prefix)["stop"]
    assert (note.state, note.outputs) == ("failed", {})
    assert (note.failure.exit_code, note.failure.verdict, note.failure.expected) == (3, "stopped", True)
    assert note.failure.sentence == "The candidate must be good, it is not. Train it longer."


@pytest.mark.parametrize(
    ("failed", "forced", "verdict"),
    [
        (("model",), "", "not_blessed"),
        (("infra",), "", "stopped"),
        (("infra", "model"), "", "stopped"),
        (("infra", "model"), "we need it", "stopped"),
    ],
)
def test_push_refuses_by_the_verdicts_that_were_published(cluster, s3, tmp_path, failed, forced, verdict):
    spec, _ = packages.documents(*packages.DIGITS)
    push = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]["push"]["inputs"]
    inputs = {key: {"artifacts": [{"uri": f"minio://tiny/{key}", "metadata": {}}]} for key in push["artifacts"]}
    for name in ("infra", "model"):
        gate = findings.GateResult(name, 1.0, 0.0, name not in failed, f"the {name} is bad")
        findings.write(tmp_path / name, gates=[gate])
        for path in (tmp_path / name).iterdir():
            s3.resource("tiny").upload_file(str(path), f"{name}_checks/{path.name}")
    parameters = {
        key: source["runtimeValue"]["constant"]
        if "runtimeValue" in source
        else spec["root"]["inputDefinitions"]["parameters"][source["componentInputParameter"]]["defaultValue"]
        for key, source in push["parameters"].items()
    } | {"run_force_push": forced}
    command = spec["deploymentSpec"]["executors"]["exec-push"]["container"]["args"]
    outputs = {"artifacts": {"pushed_model": {"artifacts": [{"type": {"schemaTitle": "tfx.PushedModel"}}]}}}
    values = {"inputs": {"artifacts": inputs, "parameterValues": parameters}, "outputs": outputs}
    for _ in range(2):  # as where the pod is lost after its work
        assert cluster.run_task("push", command, values) is None
        assert cluster.tasks[-1].exit_code == 3
        failure: Any = task_records.read_task_records(cluster.prefix)["push"].failure
        assert (failure.verdict, failure.exit_code, failure.sentence) == (verdict, 3, f"the {failed[0]} is bad")


def test_a_task_that_breaks(cluster, capsys):
    assert run(cluster, "Break", {}) is None
    assert cluster.tasks[-1].exit_code == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err
    failure: Any = task_records.read_task_records(cluster.prefix)["break"].failure
    assert (failure.exit_code, failure.verdict, failure.expected) == (1, "failed", False)
    assert failure.sentence == "ZeroDivisionError: division by zero"


def test_an_image_with_other_code_is_refused(cluster, capsys):
    assert run(cluster, "Produce", {}, digest="0" * 64) is None
    assert cluster.tasks[-1].exit_code == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("error: The image must hold the code that the package was compiled from")
    note: Any = task_records.read_task_records(cluster.prefix)["produce"]
    assert note.failure.exit_code == 1


def test_a_store_that_refuses_the_record_stops_the_task_before_it_starts(cluster, s3, capsys):
    s3.before = lambda method, path: method == "PUT"
    try:
        assert run(cluster, "Produce", {}) is None
    finally:
        s3.reset()
    assert cluster.tasks[-1].exit_code == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "must write its record" in sentence
    assert object_stores.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in sentence


@pytest.fixture
def no_wait(monkeypatch):
    monkeypatch.setattr(retries, "WAIT", tenacity.wait_none())


@pytest.mark.parametrize(
    ("error", "times", "attempts", "succeeds"),
    [
        ("Unavailable", 2, 3, True),
        ("Unavailable", 9, 3, False),
        ("BadInput", 1, 1, False),
        ("GateStopped", 1, 1, False),
        ("ProjectError", 1, 1, False),
    ],
)
def test_what_may_pass_is_tried_again_in_the_task(cluster, no_wait, error, times, attempts, succeeds):
    outputs = run(cluster, "Fail", {}, parameters={"error": error, "times": times}, again=2)
    assert (outputs is not None) == succeeds
    assert len(pathlib.Path("attempts").read_text()) == attempts
    assert task_records.read_task_records(cluster.prefix)["fail"].state == ("done" if succeeds else "failed")


def test_a_store_that_is_away_for_a_moment_is_asked_again(cluster, s3, no_wait, monkeypatch):
    refused: list[str] = []

    def before(method, path):
        if method == "PUT" and len(refused) < 4:  # more often than the store's client itself asks
            refused.append(path)
            return object_stores.LOST
        return None

    s3.before = before
    try:
        assert run(cluster, "Produce", {}, again=2) is not None
    finally:
        s3.reset()
    assert len(refused) == 4


def test_a_store_that_is_not_there_is_told_with_the_services_of_each_version(cluster, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert run(cluster, "Produce", {}) is None
    assert cluster.tasks[-1].exit_code == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "it does not answer" in sentence
    assert "AWS_ENDPOINT_URL is http://127.0.0.1:1; the store that Kubeflow Pipelines installs is" in sentence
    assert "seaweedfs, port 8333, in 2.15 to 2.17, and minio-service, port 9000, in 2.14" in sentence


def test_memory_is_named_where_the_kernel_counts_it(cluster, monkeypatch, tmp_path):
    events = tmp_path / "memory.events"
    monkeypatch.setattr(entrypoint, "MEMORY_EVENTS", events)
    assert run(cluster, "Starve", {}) is None  # of what was before it started, there is no file
    failure: Any = task_records.read_task_records(cluster.prefix)["starve"].failure
    assert failure.sentence.startswith("starve ran out of memory: the kernel killed 3 of its container's processes")
    assert failure.expected
    assert run(cluster, "Starve", {}) is None  # the count stays as it was
    failure = task_records.read_task_records(cluster.prefix)["starve"].failure
    assert failure.sentence == "OSError: a process ended"


def process(cluster, container, executor):
    """The entrypoint as a process of its own, started as Argo's executor does, in a container of its own."""
    container.mkdir()
    name, command, executor_input = task(executor, {})
    values = cluster._drive(name, executor_input, container, "salt")
    code = (
        "import pathlib, runpy; from pipeline.kubeflow import launcher_adapter; "
        f"launcher_adapter.ROOT = pathlib.Path({str(container)!r}); "
        "runpy.run_module('pipeline.kubeflow.entrypoint', run_name='__main__', alter_sys=True)"
    )
    arguments = [json.dumps(values) if argument == "{{$}}" else argument for argument in command]
    environment = os.environ | {"PYTHONPATH": str(launcher.ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=container, env=environment, umask=0, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_nobody_else_may_write_to_what_a_task_makes(cluster, tmp_path):
    with process(cluster, tmp_path / "container", "Produce") as started:
        _, log = started.communicate()
    assert started.returncode == 0, log
    paths = [path for path in (tmp_path / "container" / "minio").rglob("*") if path.name in ("model", "weights")]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o755, 0o644}


def test_a_task_that_is_ended_from_outside_says_so(cluster, tmp_path):
    with process(cluster, tmp_path / "container", "Sleep") as started:
        while not (tmp_path / "container" / "asleep").exists():
            assert started.poll() is None
            time.sleep(0.05)
        started.send_signal(signal.SIGTERM)
        _, log = started.communicate()
    assert started.returncode == 143
    assert log.splitlines()[-1].startswith("error: sleep was ended from outside, by SIGTERM")
    note: Any = task_records.read_task_records(cluster.prefix)["sleep"]
    assert (note.state, note.failure.exit_code, note.failure.expected) == ("failed", 1, True)
    assert note.failure.sentence.startswith("sleep was ended from outside, by SIGTERM: the run was terminated, or")
    assert note.ended >= note.started


def test_on_vertex_nothing_is_adapted(tmp_path, monkeypatch):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    monkeypatch.chdir(tmp_path)
    pathlib.Path("model").mkdir()
    values = {
        "inputs": {},
        "outputs": {
            "artifacts": {"model": {"artifacts": [{"uri": str(tmp_path / "model"), "type": MODEL, "metadata": {}}]}},
            "outputFile": str(tmp_path / "task/executor_output.json"),
        },
    }
    code = entrypoint.main(
        ["--executor", "tests.kubeflow.tiny.Produce", "--input", json.dumps(values),
         "--task", "produce", "--code_digest", code_digest.of_project()]
    )  # fmt: skip
    assert code == 0
    executor_output = json.loads(pathlib.Path("task/executor_output.json").read_text())
    [artifact] = executor_output["artifacts"]["model"]["artifacts"]
    assert artifact["uri"] == str(tmp_path / "model")
    assert "nothing" in artifact["metadata"]


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("minio://b/root/mnist/run1/train/0a-1b/model", ("minio://b/root/mnist/run1", "train", "model")),
        ("s3://b/mnist/run1/train/model", ("s3://b/mnist/run1", "train", "model")),
        ("gs://b/mnist/run1/other/salt/model", None),
        ("train/model", None),
    ],
)
def test_the_run_the_task_and_the_key_of_a_uri(uri, parts):
    assert task_records.split_uri(uri, frozenset({"train", "push"})) == parts


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("s3://bucket/a/b", "/s3/bucket/a/b"),
        ("minio://bucket/a/b", "/minio/bucket/a/b"),
        ("/volume/a/b", "/volume/a/b"),
    ],
)
def test_where_the_launcher_keeps_what_an_uri_names(uri, path):
    assert launcher_adapter.local_path(uri) == path
